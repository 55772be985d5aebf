"""What stands on a page: words, names, sums, dates, codes, drawn by a generator; and the labels they stand under.

Words are partly made of random syllables, so that a reader cannot guess the end of one from its beginning. The last
part of every list is held out: `Words(rng, held=True)` draws from it alone.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

HELD = 0.15  # of every list
INVENTED = 0.3  # of words and labels are random syllables
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _list(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Quinn Rosa Sam Tara Uma Victor"
    " Wendy Xavier Yara Zoe Amir Bella Carl Dora Erik Fiona Gino Hana Ivan Jana Karim Lena Milo Nina Omar Petra Ravi"
    " Sofia Tomas Ursula Vera Walter Yusuf Zara Liam Mia Owen Ruth Hugo Elsa Igor Pia"
)
LAST = _list(
    "Adams Baker Carter Diaz Evans Fischer Garcia Hughes Ito Jensen Keller Lopez Moreau Novak Ortiz Perez Quist Rossi"
    " Silva Tanaka Ueda Vogel Weber Young Zhang Brown Clark Dubois Egger Ford Gruber Hansen Ibarra Jones Kim Lang Meyer"
    " Nguyen Olsen Park Reyes Smith Turner Vargas Wong Ziegler Lind Marsh Okafor Patel Stone Wolf Frost Hale"
)
TRADES = _list(
    "Bakery Market Foods Cafe Books Tools Pharmacy Garden Motors Repair Studio Supply Store Shop Bikes Music Fabrics"
    " Flowers Hardware Optics Kitchen Outlet Press Travel Lab Clinic Services Trading Works Group Deli Grill Bar Diner"
)
COMPANY = _list("Ltd Inc LLC GmbH Co AG SA BV Corp Oy")
ITEMS = _list(
    "Apple Bread Coffee Milk Rice Pasta Soap Towel Pencil Paper Lamp Cable Mouse Shirt Socks Chair Table Plate Cup Fork"
    " Spoon Knife Candle Brush Paint Glue Tape Screw Bolt Hammer Drill Rope Bag Box Jar Bottle Tea Sugar Salt Pepper"
    " Honey Butter Cheese Eggs Onion Tomato Potato Carrot Lemon Orange Banana Grapes Olive Beans Soup Salad Steak Fish"
    " Shrimp Cake Cookie Muffin Juice Water Soda Wine Beer Napkin Filter Battery Charger Folder Stamp Ribbon Vase"
)
STREETS = _list(
    "Oak Pine Maple Cedar Elm Lake Hill Park River Main Church Mill Bridge Station Garden North South West East Spring"
)
CITIES = _list(
    "Berlin Paris London Madrid Rome Vienna Oslo Prague Dublin Lisbon Athens Zurich Geneva Milan Porto Krakow Riga"
    " Tokyo Bergen Seoul Boston Denver Austin Dallas Miami Toronto Sydney Perth Lima Quito Cairo Nairobi Delhi Dubai"
)
NOUNS = _list(
    "river stone cloud forest engine bridge window garden silver market letter number border signal harbour castle"
    " meadow winter summer autumn paper copper velvet marble canvas anchor beacon candle desert ember falcon glacier"
    " island jungle kernel lantern magnet needle orchid pebble quartz rocket saddle temple umbrella valley walnut"
    " zenith basin cotton dragon eagle feather ginger hammer insect jacket kettle ladder monkey napkin ocean pillow"
    " rabbit spider tunnel violin wagon barrel circle dinner finger global hidden inside joyful kindly little modern"
    " narrow open plain quick rapid simple tender upper vivid warm young clear early first great large light major"
)
STATES = _list(
    "Open Closed Paid Pending Active Approved Draft Sent Final New Urgent Done Ready Void Late Valid Expired"
)
COLOURS = _list("Red Blue Green Black White Grey Brown Pink Purple Orange Gold Beige Cyan Navy")
MONTHS = _list("January February March April May June July August September October November December")
UNITS = _list("kg g lb m cm mm km L ml h min s GB MB W kW V A C F Hz pcs")

GENERIC: tuple[tuple[str, str], ...] = (
    *((label, "code") for label in (
        "Serial no", "Model", "Batch", "Lot", "SKU", "Ref", "Booking", "Ticket", "Policy", "Licence", "Badge", "Flight",
        "Gate", "Seat", "Room", "Locker", "Bay", "Track", "Form", "Case ID", "Member ID", "Tax ID", "Order no", "Part",
    )),
    *((label, "measure") for label in (
        "Weight", "Height", "Width", "Length", "Depth", "Volume", "Speed", "Power", "Voltage", "Area", "Range", "Mass",
    )),
    *((label, "number") for label in (
        "Quantity", "Pages", "Units", "Guests", "Points", "Score", "Level", "Age", "Copies", "Items", "Stock", "Floor",
    )),
    *((label, "percent") for label in ("Discount", "Rate", "Share", "Growth", "Margin", "Humidity", "Progress")),
    *((label, "money") for label in (
        "Deposit", "Fee", "Price", "Cost", "Refund", "Salary", "Rent", "Budget", "Tip", "Shipping", "Fine", "Value",
    )),
    *((label, "date") for label in ("Issued", "Expires", "Born", "Arrival", "Departure", "Start", "End")),
    *((label, "time") for label in ("Opens", "Closes", "Check-in", "Boarding", "Pickup", "Break")),
    *((label, "name") for label in (
        "Name", "Driver", "Doctor", "Teacher", "Owner", "Manager", "Guest", "Agent", "Author", "Patient", "Signed by",
    )),
    *((label, "word") for label in ("Project", "Product", "Team", "Topic", "Title", "Subject", "Brand", "Remark")),
    *((label, "state") for label in ("Status", "State", "Result")),
    *((label, "colour") for label in ("Colour", "Finish")),
    *((label, "city") for label in ("City", "From", "To", "Origin", "Destination", "Branch")),
)  # fmt: skip


class Meaning(NamedTuple):
    """A field every reader knows. labels: as it is printed; names: as it is asked for, beside the printed label."""

    kind: str
    labels: tuple[str, ...]
    names: tuple[str, ...]


MEANINGS = {
    "total": Meaning(
        "money",
        ("Total", "TOTAL", "Amount due", "Grand total", "Balance due", "Total amount", "Sum", "To pay"),
        ("total", "total amount", "amount due"),
    ),
    "subtotal": Meaning("money", ("Subtotal", "Sub total", "Net", "SUBTOTAL", "Net amount"), ("subtotal",)),
    "tax": Meaning("money", ("Tax", "VAT", "Sales tax", "TAX", "GST"), ("tax", "tax amount")),
    "date": Meaning("date", ("Date", "DATE", "Invoice date", "Issue date"), ("date",)),
    "due": Meaning("date", ("Due date", "Due", "Payable by", "Pay before"), ("due date",)),
    "number": Meaning(
        "code", ("Invoice no", "No", "Receipt no", "Number", "Order", "Ref no", "Invoice #"), ("number",)
    ),
    "buyer": Meaning("name", ("Bill to", "Customer", "Client", "Buyer", "Sold to"), ("customer", "buyer")),
    "phone": Meaning("phone", ("Phone", "Tel", "Telephone", "Mobile"), ("phone number", "phone")),
    "time": Meaning("time", ("Time", "TIME"), ("time",)),
    "cashier": Meaning("first", ("Cashier", "Served by", "Clerk", "Operator"), ("cashier",)),
    "payment": Meaning("payment", ("Payment", "Paid by", "Method"), ("payment method",)),
    "email": Meaning("email", ("Email", "E-mail", "Mail"), ("email",)),
    "address": Meaning("address", ("Address", "Street", "Ship to"), ("address",)),
}


class Words:
    """Everything drawn for one page. held: from the held-out part of each list; longest: characters of a value;
    misspelt: share of the words taken from a list in which letters are exchanged, so that none is known by heart."""

    def __init__(
        self, rng: Random, *, held: bool = False, longest: int = 16, signs: Sequence[str] = (), misspelt: float = 0.0
    ) -> None:
        self.rng, self.held, self.longest, self.misspelt = rng, held, longest, misspelt
        self._money = self._money_style(tuple(signs))
        self._date = rng.randrange(6)

    def pick(self, words: Sequence[str]) -> str:
        """One of this side's part of a list."""
        cut = round(len(words) * (1 - HELD))
        word = words[self.rng.randrange(cut, len(words)) if self.held else self.rng.randrange(cut)]
        return self._exchanged(word) if self.misspelt and self.rng.random() < self.misspelt else word

    def _exchanged(self, word: str) -> str:
        """The word with about half its letters drawn anew, large ones large."""
        r = self.rng
        made = (r.choice(LETTERS) if c.isalpha() and r.random() < 0.5 else c for c in word.lower())
        return "".join(m.upper() if c.isupper() else m for m, c in zip(made, word, strict=True))

    def invented(self, least: int = 1, most: int = 3) -> str:
        """A word of random syllables, in lower case."""
        r = self.rng
        made = "".join(
            r.choice("bcdfghjklmnprstvwz") + r.choice("aeiou") + r.choice(("", "", "n", "r", "s", "l", "m", "x"))
            for _ in range(r.randint(least, most))
        )
        return made if len(made) > 2 else made + r.choice("bdgkmpt")

    def word(self) -> str:
        """A noun or an invented word, in lower case."""
        return self.invented() if self.rng.random() < INVENTED else self.pick(NOUNS)

    def thing(self) -> str:
        """What is sold: one word or two."""
        r = self.rng
        first = self.invented().capitalize() if r.random() < INVENTED else self.pick(ITEMS)
        how = r.random()
        if how > 0.88:
            return f"{first} {r.choice((f'x{r.randint(2, 12)}', f'{r.randint(1, 9) * 100} g', f'{r.randint(1, 5)} l'))}"
        return first if how < 0.7 else f"{first} {self.word()[:5]}"

    def label(self) -> tuple[str, str]:
        """A label without a meaning of its own, and the kind of value below it."""
        r = self.rng
        if r.random() < INVENTED:
            return self.invented(2, 3).capitalize(), r.choice(("code", "number", "word", "money", "date", "measure"))
        return r.choice(GENERIC)

    def value(self, kind: str) -> str:
        """A value of a kind, of at most `longest` characters where the kind has such."""
        made = self._value(kind)
        for _ in range(7):
            if len(made) <= self.longest:
                return made
            made = self._value(kind)
        return made[: self.longest].strip(" .,-@")

    # ---- the kinds

    def _value(self, kind: str) -> str:
        r = self.rng
        if kind == "money":
            return self.money(self.amount())
        if kind == "word":
            return self._cased(self.word() if r.random() < 0.7 else f"{self.word()} {self.word()}")
        if kind in ("state", "colour", "city", "payment"):
            lists = {
                "state": STATES,
                "colour": COLOURS,
                "city": CITIES,
                "payment": _list("Cash Card Visa Debit Credit"),
            }
            return r.choice(lists[kind]) if r.random() > INVENTED else self.invented(2, 3).capitalize()
        return getattr(self, f"_{kind}_value")()

    def amount(self, most: float = 5.0) -> int:
        """Hundredths: sizes spread evenly over powers of ten."""
        cents = round(10 ** self.rng.uniform(2.0, most))
        return cents if self.rng.random() < 0.7 else round(cents, -2) - self.rng.choice((0, 1, 5, 10, 50))

    def money(self, cents: int) -> str:
        """A sum as this page writes sums."""
        sign, place, comma, thousands = self._money
        whole, rest = divmod(abs(cents), 100)
        number = f"{whole:,}".replace(",", thousands) + f"{comma}{rest:02d}"
        written = {"before": f"{sign}{number}", "apart": f"{sign} {number}", "after": f"{number} {sign}"}
        return written.get(place, number)

    def _money_style(self, signs: tuple[str, ...]) -> tuple[str, str, str, str]:
        r = self.rng
        sign, place = r.choice((("", "none"), ("$", "before"), ("$", "before"), ("EUR", "after"), ("USD", "after")))
        place = "apart" if place == "after" and r.random() < 0.5 else place
        if signs and r.random() < 0.4:
            sign = r.choice(signs)
            place = "after" if sign == "€" and r.random() < 0.5 else "before"
        comma, thousands = r.choice(((".", ","), (".", ","), (".", ""), (",", ".")))
        return sign, place, comma, thousands

    def _date_value(self) -> str:
        r = self.rng
        day, month, year = r.randint(1, 28), r.randint(1, 12), r.randint(1990, 2039)
        short = MONTHS[month - 1][:3]
        return (
            f"{year}-{month:02d}-{day:02d}",
            f"{day:02d}/{month:02d}/{year}",
            f"{month:02d}/{day:02d}/{year % 100:02d}",
            f"{day:02d}.{month:02d}.{year}",
            f"{day} {short} {year}",
            f"{short} {day}, {year}",
        )[self._date]

    def _time_value(self) -> str:
        r = self.rng
        hour, minute = r.randint(0, 23), r.randint(0, 59)
        if r.random() < 0.3:
            return f"{hour % 12 or 12}:{minute:02d} {'AM' if hour < 12 else 'PM'}"
        return f"{hour:02d}:{minute:02d}" + (f":{r.randint(0, 59):02d}" if r.random() < 0.2 else "")

    def _code_value(self) -> str:
        r = self.rng
        pattern = r.choice(
            ("AA-####", "######", "A###", "#####-##", "AAA ###", "##A##", "A-####-A", "####/##", "AA######")
        )
        return "".join(
            r.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") if c == "A" else r.choice("0123456789") if c == "#" else c
            for c in pattern
        )

    def _number_value(self) -> str:
        r = self.rng
        number = round(10 ** r.uniform(0.5, 5))
        return f"{number:,}" if r.random() < 0.3 else str(number)

    def _measure_value(self) -> str:
        r = self.rng
        number = r.choice((f"{r.uniform(0, 100):.1f}", f"{r.uniform(0, 10):.2f}", str(r.randint(2, 999))))
        return f"{number} {r.choice(UNITS)}"

    def _percent_value(self) -> str:
        r = self.rng
        return r.choice((f"{r.randint(1, 99)}%", f"{r.uniform(0, 100):.1f}%", f"{r.uniform(0, 30):.2f}%"))

    def _first_value(self) -> str:
        return self.invented(2, 3).capitalize() if self.rng.random() < INVENTED else self.pick(FIRST)

    def _name_value(self) -> str:
        r = self.rng
        last = self.invented(2, 3).capitalize() if r.random() < INVENTED else self.pick(LAST)
        first = self.pick(FIRST)
        return f"{first} {last}" if r.random() < 0.8 else f"{first[0]}. {last}"

    def _business_value(self) -> str:
        r = self.rng
        head = self.invented(2, 3).capitalize() if r.random() < 0.5 else self.pick(LAST)
        made = f"{head} {self.pick(TRADES)}"
        made = f"{head} {r.choice(COMPANY)}" if r.random() < 0.3 else made
        return made.upper() if r.random() < 0.25 else made

    def _address_value(self) -> str:
        r = self.rng
        street = self.invented(2, 2).capitalize() if r.random() < INVENTED else self.pick(STREETS)
        return f"{r.randint(1, 999)} {street} {r.choice(('St', 'Rd', 'Ave', 'Lane', 'Way'))}"

    def _phone_value(self) -> str:
        r = self.rng
        pattern = r.choice(("###-####", "(###) ###-####", "+## ### ####", "### ### ####", "0## ######"))
        return "".join(r.choice("0123456789") if c == "#" else c for c in pattern)

    def _email_value(self) -> str:
        r = self.rng
        return f"{self.word()[:6]}@{self.word()[:5]}.{r.choice(('com', 'org', 'net', 'de', 'io'))}"

    def _cased(self, text: str) -> str:
        how = self.rng.random()
        return text.capitalize() if how < 0.6 else text.upper() if how < 0.75 else text
