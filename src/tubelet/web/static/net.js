// What is asked of the server, and what its bytes mean.

import { keptByBits } from "./draw.js";

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

/** Requests that carry the token. */
export class Server {
  constructor(token) { this.token = token; }

  async ask(path, options = {}) {
    const headers = { ...options.headers, "X-Tubelet-Token": this.token };
    for (let turn = 0; ; turn++) {
      let answer;
      try {
        answer = await fetch(path, { ...options, headers });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refused(0, "The server does not answer. Is tubelet serve still running?");
      }
      if (answer.ok) return answer;
      if (answer.status === 503 && turn < 8) { // others are being served: wait as long as it says
        await new Promise((done) => setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 1)));
        continue;
      }
      const said = await answer.json().catch(() => ({}));
      throw new Refused(answer.status, said.message || `The server answered ${answer.status}.`);
    }
  }

  async json(path, options) { return (await this.ask(path, options)).json(); }

  async bytes(path, options) { return (await this.ask(path, options)).arrayBuffer(); }

  post(path, body, options = {}) {
    return this.ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, ...options });
  }

  /** A file as the body; its name and how it is to be read in a header of ASCII. */
  async open(file, how) {
    const said = JSON.stringify({ ...how, name: file.name.slice(-200) }).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
    const headers = { "Content-Type": "application/octet-stream", "X-Tubelet-File": said };
    return (await this.ask("api/open", { method: "POST", body: file, headers })).json();
  }

  async frame(id, number, side) {
    const query = side ? `?side=${side}` : "";
    return (await this.ask(`api/frame/${id}/${number}${query}`)).blob();
  }
}

/** What a method says, out of the bytes that tubelet.web.look describes. */
export function choiceOf(buffer) {
  const head = new DataView(buffer), rows = head.getUint32(8, true), flags = head.getUint32(16, true);
  const found = { rows, budget: head.getUint32(12, true), low: head.getFloat32(24, true), high: head.getFloat32(28, true) };
  let at = 32;
  if (flags & 4) return { ...found, resized: JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, at))) };
  if (flags & 1) { found.scores = new Float32Array(buffer, at, rows); at += 4 * rows; }
  if (flags & 2) found.ranks = new Uint32Array(buffer, at, rows);
  else found.kept = keptByBits(new Uint8Array(buffer, at), rows);
  return found;
}
