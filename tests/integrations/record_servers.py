"""What inference servers say of their interfaces, read off their sources without running them.

    pip download --no-deps vllm && unzip -q vllm-*.whl -d FOLDER
    python tests/integrations/record_servers.py vllm FOLDER        writes tests/integrations/servers/vllm.json

Names, keys, signatures and shapes alone are recorded. With TUBELET_VLLM or TUBELET_SGLANG naming such a folder, the
tests compare it with the recorded description.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "servers"


class Source:
    """One file of a wheel, by its definitions."""

    def __init__(self, path: Path) -> None:
        self.tree: Any = ast.parse(path.read_text(encoding="utf-8"))

    def find(self, name: str) -> Any:
        """The class, function or assigned value called `name`, wherever it stands; LookupError without one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return node
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign):
                for target in targets:
                    if getattr(target, "id", getattr(target, "attr", None)) == name:
                        return node.value
        raise LookupError(name)

    def inside(self, *names: str) -> Any:
        """A definition inside another."""
        found = self
        for name in names:
            outer, found = found.find(name), Source.__new__(Source)
            found.tree = outer
        return found.tree

    def schema(self, name: str) -> dict[str, list[Any]]:
        """Field -> axes of a class whose annotations hold TensorShape(...)."""
        fields: dict[str, list[Any]] = {}
        for node in self.find(name).body:
            if isinstance(node, ast.AnnAssign):
                for call in (c for c in ast.walk(node.annotation) if isinstance(c, ast.Call)):
                    fields[ast.unparse(node.target)] = [ast.literal_eval(a) for a in call.args]
        return fields

    def parameters(self, *names: str) -> list[str]:
        """Names of a function's parameters."""
        spec = self.inside(*names).args
        return [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if a.arg != "self"]

    def words(self, *names: str) -> list[str]:
        """Every string in a definition but its docstrings."""
        node = self.inside(*names)
        said = {n.value.value for n in ast.walk(node) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        every = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        return sorted(every - said)


def version(folder: Path, name: str) -> str:
    """The wheel's version, from its metadata."""
    (info,) = folder.glob(f"{name}-*.dist-info")
    return info.name.removeprefix(f"{name}-").removesuffix(".dist-info")


def divisions(node: Any) -> dict[str, list[str]]:
    """key -> (how it is divided among items, modality) of every MultiModalFieldConfig in a definition."""
    found: dict[str, list[str]] = {}
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "dict":
            for key in call.keywords:
                if key.arg and isinstance(key.value, ast.Call):
                    how = ast.unparse(key.value.func).rpartition(".")[2]
                    found[key.arg] = [how, ast.literal_eval(key.value.args[0])]
    return found


def embedding_fields(node: Any, parent: dict[str, Any]) -> dict[str, Any]:
    """A parser's table of fields, with what it takes over of its parent's."""
    table: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            table |= parent
        elif isinstance(value, ast.Dict):
            table[key.value] = embedding_fields(value, parent.get(key.value, {}))
        else:
            table[key.value] = value.value
    return table


def vllm(folder: Path) -> dict[str, Any]:
    """vLLM's doors for finished embeddings and plugins."""
    models = folder / "vllm" / "model_executor" / "models"
    qwen2, qwen2_5, qwen3, llava = (
        Source(models / f"{name}.py") for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava")
    )
    parsed = embedding_fields(qwen2.inside("Qwen2VLMultiModalDataParser", "embedding_fields"), {})
    divided = divisions(qwen2.find("_create_qwen2vl_field_factory"))
    more = divisions(qwen2_5.inside("Qwen2_5_VLMultiModalProcessor", "_get_mm_fields_config"))
    chat = Source(folder / "vllm" / "renderers" / "chat_utils" / "chat_message.py")
    image_io = Source(folder / "vllm" / "multimodal" / "media" / "image.py")
    plugins = Source(folder / "vllm" / "plugins" / "__init__.py")
    return {
        "version": version(folder, "vllm"),
        "schemas": {
            "qwen2_vl": {
                "image": qwen2.schema("Qwen2VLImageEmbeddingInputs"),
                "video": qwen2.schema("Qwen2VLVideoEmbeddingInputs"),
            },
            "qwen2_5_vl": {
                "image": qwen2_5.schema("Qwen2_5_VLImageEmbeddingInputs"),
                "video": qwen2_5.schema("Qwen2_5_VLVideoEmbeddingInputs"),
            },
            "llava": {"image": llava.schema("LlavaImageEmbeddingInputs")},
        },
        "embedding_fields": {
            "qwen2_vl": parsed,
            "qwen2_5_vl": parsed,
            "qwen3_vl": embedding_fields(qwen3.inside("Qwen3VLMultiModalDataParser", "embedding_fields"), parsed),
        },
        "divided": {"qwen2_vl": divided, "qwen2_5_vl": divided | more, "qwen3_vl": divided},
        "content_parts": sorted({w for w in _all_words(chat) if w in ("image_embeds", "video_embeds")}),
        "npy_before_pickle": "MAGIC_NUMPY_PREFIX"
        in ast.unparse(image_io.inside("ImageEmbeddingMediaIO", "load_bytes")),
        "plugins_group": plugins.find("DEFAULT_PLUGINS_GROUP").value,
        "plugin_is_called_with": [ast.unparse(a) for a in _calls(plugins.find("load_general_plugins"), "func")],
        "register_model": Source(models / "registry.py").parameters("register_model"),
    }


def _all_words(source: Source) -> set[str]:
    return {n.value for n in ast.walk(source.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _calls(node: Any, name: str) -> list[Any]:
    """The arguments of calls of `name` in a definition."""
    found = [c for c in ast.walk(node) if isinstance(c, ast.Call) and ast.unparse(c.func) == name]
    assert found, f"{name} is not called"
    return [a for c in found for a in c.args]


def sglang(folder: Path) -> dict[str, Any]:
    """SGLang's doors for finished embeddings."""
    runtime = folder / "sglang" / "srt"
    base = Source(runtime / "multimodal" / "processors" / "base_processor.py")
    qwen = Source(runtime / "multimodal" / "processors" / "qwen_vl.py")
    schedule = Source(runtime / "managers" / "mm_schedule.py")
    table = base.find("ATTR_NAME_TO_MODALITY")
    item = Source(runtime / "managers" / "schedule_batch.py").find("MultimodalDataItem")
    return {
        "version": version(folder, "sglang"),
        "formats": [w for w in base.words("_get_preprocessed_input_format") if w != "format"],
        "collected": base.words("collect_mm_items_from_processor_output"),
        "modality_of": {k.value: v.attr for k, v in zip(table.keys, table.values, strict=True)},
        "item": [ast.unparse(n.target) for n in item.body if isinstance(n, ast.AnnAssign)],
        "positions": qwen.words("_get_precomputed_mrope_from_output"),
        "taken_as_they_are": "precomputed_embeddings" in ast.unparse(schedule.find("_get_precomputed_embedding")),
        "chunk": schedule.parameters("get_embedding_chunk"),
        "engine": Source(runtime / "entrypoints" / "engine.py").parameters("Engine", "generate"),
    }


RECORDERS = {"vllm": vllm, "sglang": sglang}

if __name__ == "__main__":
    which, where = sys.argv[1:]
    said = json.dumps(RECORDERS[which](Path(where)), indent=1, sort_keys=True)
    (HERE / f"{which}.json").write_text(said + "\n", encoding="utf-8")
