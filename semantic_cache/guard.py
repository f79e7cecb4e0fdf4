"""The guard: a stored answer may not be reused when the two questions differ in something that changes the answer.

A cosine hardly sees one changed number, name or "not": those are compared here, before any score.

Rules:
- Deterministic, and linear in the text but for word order (bounded by ORDERED_WORDS). No regular expressions.
- When in doubt the guard objects: a wrong objection costs one model call, a missing one a wrong answer.
- Sentences that close both texts alike ("Answer in one short sentence.") are set aside first: they say nothing about
  whether the questions are the same.
- Two questions about one passage ("Omar is 44 … Where does Lucy live?") are told apart by a word that both texts have:
  where both open with the same sentences and go on differently, the guard objects.
- English. A text in another language meets only what needs no words: numbers, capitals, symbols.

What the guard lets pass has not been accepted: `semantic_cache.acceptance` still scores it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from semantic_cache import lexicon as lex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_CHARACTERS = 2_000
"""Longer texts are not compared: every check here was written for questions, not for documents."""

ORDERED_WORDS = 40
"""Word order is compared pair by pair up to this many words; longer texts must keep the very same order."""

MATCHED_NUMBERS = 32
"""Numbers are matched each with each up to this many; longer lists must be equal."""


class Objection(StrEnum):
    """Why a stored answer may not serve; the values are what metrics and explanations show."""

    TOO_LONG = "too_long"
    NUMBER = "number"
    DATE = "date"
    NEGATION = "negation"
    ANTONYM = "antonym"
    ENTITY = "entity"
    ORDER = "order"
    QUESTION = "question"
    FORMAT = "format"
    LENGTH = "length"
    LANGUAGE = "language"
    PASSAGE = "passage"
    REGISTER = "register"
    """For how learned a reader; told only where nothing else speaks against a pair."""
    SCRIPT = "script"
    """What no table here can read differs; told as `REGISTER`."""


DOUBTS = frozenset({Objection.REGISTER, Objection.SCRIPT})
"""Objections that a model may overrule: an answer in simple terms often serves who did not say what terms, and a model
may read what this module cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An objection with the two values that differ; these are pieces of prompts, so they never go to logs."""

    objection: Objection
    asked: str
    stored: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written, its unit ("" is unknown and agrees with every unit) and how many base units that unit is.

    `is_loose` marks a "one" that may be an article.
    """

    written: Fraction
    unit: str
    factor: int = 1
    is_loose: bool = False

    @property
    def value(self) -> Fraction:
        """The number in the base unit."""
        return self.written * self.factor

    @property
    def shown(self) -> str:
        """The value with its base unit."""
        return f"{self.value} {self.unit}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the guard and the score read out of one text.

    Attributes:
        words: all words in order, lower case, contractions and phrases resolved.
        content: stems of the words that carry meaning, in order; numbers are not among them.
        quantities: numbers with units, in order.
        names: words with a capital inside a sentence, and places, as canonical stems.
        stems: stems of all words.
    """

    words: tuple[str, ...]
    content: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    operators: tuple[str, ...]
    calendar: frozenset[str]
    names: frozenset[str]
    stems: frozenset[str]


def object_to(asked: str, stored: str) -> Objection | None:
    """Return why the answer to `stored` may not serve `asked`; None when nothing speaks against it."""
    found = difference(asked, stored)
    return found.objection if found else None


def difference(asked: str, stored: str) -> Difference | None:
    """Return the first difference that changes an answer, with both values; None when there is none."""
    if max(len(asked), len(stored)) > MAX_CHARACTERS:
        return Difference(objection=Objection.TOO_LONG, asked=f"{len(asked)} characters", stored=f"{len(stored)}")
    asked, stored = without_shared_ending(asked, stored)
    left, right = read(asked), read(stored)
    languages = _language(asked, left), _language(stored, right)
    if languages[0] != languages[1]:
        return Difference(objection=Objection.LANGUAGE, asked=languages[0], stored=languages[1])
    for objection, check in _CHECKS:
        values = check(left, right)
        if values is not None:
            return Difference(objection=objection, asked=values[0], stored=values[1])
    found = _passage(asked, stored)
    if found is not None:
        return found
    for doubt, values in ((Objection.REGISTER, _register(left, right)), (Objection.SCRIPT, _unread(asked, stored))):
        if values is not None:
            return Difference(objection=doubt, asked=values[0], stored=values[1])
    return None


def without_shared_ending(asked: str, stored: str) -> tuple[str, str]:
    """Cut the sentences that both texts end with, unless nothing would be left of one of them."""
    left, right = _sentences(asked), _sentences(stored)
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[-1 - shared].casefold() == right[-1 - shared].casefold():
        shared += 1
    if not shared:
        return asked, stored
    return " ".join(left[:-shared]), " ".join(right[:-shared])


def _passage(asked: str, stored: str) -> Difference | None:
    """Object to texts that open with the same sentences and go on differently."""
    left, right = _sentences(asked), _sentences(stored)
    shared = 0
    while shared < min(len(left), len(right)) and left[shared].casefold() == right[shared].casefold():
        shared += 1
    if not shared or (shared == len(left) == len(right)):
        return None
    rest = (" ".join(sentences[shared:]) for sentences in (left, right))
    return Difference(objection=Objection.PASSAGE, asked=next(rest), stored=next(rest))


def _sentences(text: str) -> list[str]:
    """Split at line ends and at `.`, `?` or `!` before white space."""
    sentences: list[str] = []
    start = 0
    for at, character in enumerate(text):
        if character == "\n" or (character in ".?!" and text[at + 1 : at + 2].isspace()):
            sentences.append(text[start : at + 1].strip())
            start = at + 1
    sentences.append(text[start:].strip())
    said = [sentence for sentence in sentences if sentence]
    return [sentence for sentence in said if not _is_manners(sentence)] or said


def _is_manners(sentence: str) -> bool:
    words = ["".join(filter(str.isalpha, word)).lower() for word in sentence.split()]
    return all(not word or word in lex.CLOSINGS for word in words)


def _language(text: str, reading: Reading) -> str:
    """Return the language the answer will be in: the one asked for, else that of the text; "" when it is not clear."""
    words = reading.words
    asked_for = [
        lex.LANGUAGES[word]
        for at, word in enumerate(words)
        # One word may stand between: "into natural English".
        if word in lex.LANGUAGES and lex.LANGUAGE_LEADS & set(words[max(0, at - 2) : at])
    ]
    # Without spaces between words the name stands inside: "\u7528\u4e2d\u6587\u89e3\u91ca" asks for Chinese.
    asked_for += [
        language
        for name, language in lex.LANGUAGES.items()
        if not name.isascii() and any("\u7528" + name in word for word in words)
    ]
    return asked_for[0] if asked_for else _language_of(text, words)


def _language_of(text: str, words: Sequence[str]) -> str:
    letters = [character for character in text if character.isalpha()]
    scripts = Counter(_script(character) for character in letters if not character.isascii())
    if scripts:
        script, count = scripts.most_common(1)[0]
        if script != "latin" and count > 0.3 * len(letters):
            return script
    counts = {language: sum(word in known for word in words) for language, known in lex.FUNCTION_WORDS.items()}
    language = max(counts, key=lambda name: counts[name])
    # Two function words more than English has are no loan words.
    return language if counts[language] >= counts["english"] + 2 else ""


def _unread(asked: str, stored: str) -> _Values:
    """Compare what is written in other scripts than Latin, letter by letter.

    All tables here but those of numbers are of English words, and so are the embedder's pieces: "administrator" for
    "user" in Chinese is nothing to either, and such a pair's score says nothing.
    """
    if asked.isascii() and stored.isascii():
        return None
    here, there = ("".join(filter(_is_unread, text)) for text in (asked, stored))
    return None if here == there else (here or "nothing", there or "nothing")


def _is_unread(character: str) -> bool:
    return not character.isascii() and _script(character) != "latin"


def _script(character: str) -> str:
    point = ord(character)
    return next((name for first, last, name in lex.SCRIPTS if first <= point <= last), "latin")


# Reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    is_name: bool = False


@lru_cache(maxsize=2_048)
def read(text: str) -> Reading:
    """Read a text (at most MAX_CHARACTERS) into what is compared; remembered, as stored texts come again."""
    tokens = _resolve_phrases(_resolve_contractions(_tokens(text)))
    quantities, rest = _take_quantities(tokens)
    words = [token.word for token in rest]
    calendar = frozenset(_calendar(rest))
    names = frozenset(canonical(token.word) for token in rest if _is_name(token)) - calendar
    stems = [canonical(word) for word in words]
    return Reading(
        words=tuple(token.word for token in tokens),
        content=tuple(
            stem_
            for word, stem_ in zip(words, stems, strict=True)
            if word not in lex.STOPWORDS and word not in lex.OPERATORS and word not in lex.NEGATORS
        ),
        quantities=tuple(quantities),
        operators=tuple(word for word in words if word in lex.OPERATORS),
        calendar=calendar,
        names=names,
        stems=frozenset(stems),
    )


def _tokens(text: str) -> list[_Token]:
    """Split into lower-case words, numbers and symbols; a name is a capital that is not a sentence's first word."""
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    pieces: list[tuple[str, bool]] = []
    at, starts = 0, True
    while at < len(text):
        character = text[at]
        if character.isalnum():
            end = _end_of_word(text, at)
            pieces.append((text[at:end], starts))
            at, starts = end, False
            continue
        if _is_symbol(text, at):
            pieces.append((character, False))
        starts = starts or character in '.?!:;\n"\N{LEFT DOUBLE QUOTATION MARK}'
        at += 1
    shouted = _is_shouted([piece for piece, _ in pieces if piece[0].isalpha()])
    return [_token(piece, is_name=not starts and not shouted and _has_capital(piece)) for piece, starts in pieces]


def _token(piece: str, *, is_name: bool) -> _Token:
    word = _singular_acronym(piece).lower()
    return _Token(lex.PLACES[word] if is_name and word in lex.PLACES_THAT_ARE_WORDS else word, is_name)


def _singular_acronym(word: str) -> str:
    """Read "APIs" as "API": the endings of stems are those of words in small letters."""
    return word[:-1] if len(word) > 2 and word[-1] == "s" and word[:-1].isalpha() and word[:-1].isupper() else word


def _end_of_word(text: str, at: int) -> int:
    """Return where the word or number that begins at `at` ends: letters, digits, inner `'`, `1,000`, `3.5`, `9:15`."""
    is_number = text[at].isdigit()
    end = at + 1
    while end < len(text):
        character, following = text[end], text[end + 1 : end + 2]
        if is_number and character.isalpha():
            # "5km", "7am": the unit is a word of its own; "2fa" is put together again by PHRASES.
            break
        inner = (is_number and character in ",.:" and following.isdigit()) or (
            character == "'" and following.isalpha() and not is_number
        )
        if not (character.isalnum() or inner):
            break
        end += 1
    return end


def _is_symbol(text: str, at: int) -> bool:
    character = text[at]
    if character in "£$€¥%°":
        return True
    if character not in lex.OPERATORS:
        return False
    # A hyphen or slash between letters joins words, and a dash between words parts them; between numbers it calculates.
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if character not in "-/*":
        return True
    if before.isalpha() or after.isalpha():
        return False
    return not before.isspace() or _is_operand(text[:at].split()[-1:]) or _is_operand(text[at + 1 :].split()[:1])


def _is_operand(word: Sequence[str]) -> bool:
    """Tell whether the word beside a sign is a number, a letter or in brackets; no word is one too."""
    return not word or len(word[0]) == 1 or not word[0].strip("?!.,:;\"'").isalpha()


def _is_shouted(words: Sequence[str]) -> bool:
    """Tell that capitals mean nothing here: Title Case and UPPER CASE texts capitalise everything."""
    long_ones = [word for word in words if len(word) > 3]
    return len(long_ones) > 2 and sum(_has_capital(word) for word in long_ones) > 0.7 * len(long_ones)


def _has_capital(word: str) -> bool:
    return word[0].isupper() and word not in {"I", "I'm", "I'd", "I've", "I'll"}


_CONTRACTIONS = {
    "whats": ("what", "is"),
    "wheres": ("where", "is"),
    "whos": ("who", "is"),
    "hows": ("how", "is"),
    "cant": ("can", "not"),
    "can't": ("can", "not"),
    "cannot": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
    "dont": ("do", "not"),
    "doesnt": ("does", "not"),
    "isnt": ("is", "not"),
    "wont": ("will", "not"),
    "im": ("i", "am"),
    "let's": ("let", "us"),
}
_HOSTS = frozenset(["what", "who", "where", "when", "how", "why", "that", "it", "there", "here", "he", "she"])


def _resolve_contractions(tokens: Iterable[_Token]) -> list[_Token]:
    resolved: list[_Token] = []
    for token in tokens:
        word = token.word
        if word in _CONTRACTIONS:
            resolved.extend(_Token(part) for part in _CONTRACTIONS[word])
        elif word.endswith("n't"):
            # "n't" may also stand alone, cut off its verb.
            resolved.extend([_Token(word[:-3])] if word[:-3] else [])
            resolved.append(_Token("not"))
        elif "'" in word:
            host, _, tail = word.partition("'")
            resolved.append(_Token(host, token.is_name))
            if tail != "s" or host in _HOSTS:
                resolved.append(_Token({"re": "are", "ve": "have", "ll": "will", "m": "am", "s": "is"}.get(tail, tail)))
        else:
            resolved.append(token)
    return resolved


_LONGEST_PHRASE = max(len(phrase) for phrase in lex.PHRASES)
_PHRASE_OPENINGS = frozenset(phrase[0] for phrase in lex.PHRASES)


def _resolve_phrases(tokens: Sequence[_Token]) -> list[_Token]:
    resolved: list[_Token] = []
    at = 0
    while at < len(tokens):
        if tokens[at].word == "2" and at + 1 < len(tokens) and tokens[at + 1].word == "fa":
            resolved.extend(_Token(word) for word in lex.PHRASES[("2fa",)])
            at += 2
            continue
        longest = min(_LONGEST_PHRASE, len(tokens) - at) if tokens[at].word in _PHRASE_OPENINGS else 0
        for length in range(longest, 1, -1):
            replacement = lex.PHRASES.get(tuple(token.word for token in tokens[at : at + length]))
            if replacement is not None:
                resolved.extend(_Token(word, word in lex.PLACES) for word in replacement)
                at += length
                break
        else:
            resolved.append(tokens[at])
            at += 1
    return resolved


@lru_cache(maxsize=16_384)
def canonical(word: str) -> str:
    """Return the place a name or demonym stands for, or the stem of the word's group of synonyms."""
    if word in lex.PLACES and word not in lex.PLACES_THAT_ARE_WORDS:
        return lex.PLACES[word]
    short = lex.stem(word)
    return lex.PLACES.get(short, lex.SYNONYMS.get(short, short)) if short not in lex.PLACES_THAT_ARE_WORDS else short


def _is_name(token: _Token) -> bool:
    word = token.word
    if word in lex.PLACES:
        return token.is_name or word not in lex.PLACES_THAT_ARE_WORDS
    return (token.is_name and word not in lex.STOPWORDS) or (word.isalnum() and not word.isalpha())


def _calendar(tokens: Sequence[_Token]) -> Iterable[str]:
    for at, token in enumerate(tokens):
        if token.word in {"next", "last"} and at + 1 < len(tokens):
            following = tokens[at + 1].word
            if following in lex.CALENDAR or lex.UNITS.get(following, ("", 1))[0] in {"day", "month"}:
                yield f"{token.word} {following}"
        word = token.word if token.word in lex.CALENDAR else token.word.removesuffix("s")
        if word in lex.CALENDAR and (token.is_name or word not in {"may", "march", "spring", "fall", "second"}):
            yield "autumn" if word == "fall" else word


# Quantities ---------------------------------------------------------------------------------------------------------


def _take_quantities(tokens: Sequence[_Token]) -> tuple[list[Quantity], list[_Token]]:
    """Separate numbers, with the unit beside them, from the other words."""
    quantities: list[Quantity] = []
    rest: list[_Token] = []
    at = 0
    while at < len(tokens):
        value, after, is_loose = _number_at(tokens, at)
        if value is None:
            rest.append(tokens[at])
            at += 1
            continue
        unit, factor, after = _unit_at(tokens, after)
        if not unit and rest and rest[-1].word in "£$€¥":
            unit, factor = lex.UNITS[rest.pop().word]
        if not unit:
            unit = _daytime(tokens[after : after + 3])
        quantities.append(Quantity(value, unit, factor, is_loose and unit not in lex.LENGTH_UNITS))
        at = after
    return quantities, rest


def _number_at(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int, bool]:
    """Read a number in digits or words at `at`: its value, where it ends, and whether it may be an article."""
    word = tokens[at].word
    if word[0].isdecimal():
        value = _digits(word)
        at += 1
        if at < len(tokens) and tokens[at].word in {"st", "nd", "rd", "th"}:
            at += 1
        return _scaled(value, tokens, at)
    # The last word ("without warning me first") is an adverb, no ordinal.
    if word in lex.ORDINALS and at + 1 < len(tokens):
        return Fraction(lex.ORDINALS[word]), at + 1, False
    if word == "dozen":
        return Fraction(12), at + 1, False
    if word not in lex.NUMBERS:
        return None, at, False
    value = Fraction(lex.NUMBERS[word])
    at += 1
    if value >= 20 and at < len(tokens):
        units = lex.NUMBERS.get(tokens[at].word) or lex.ORDINALS.get(tokens[at].word, 0)
        if 0 < units < 10:
            value += units
            at += 1
    scaled, after, _ = _scaled(value, tokens, at)
    return scaled, after, word == "one" and after == at


def _digits(word: str) -> Fraction:
    """Read "1,000", "3.5" or "9:15" (hours and sixtieths); what is no single number (1.2.3) is read digit by digit."""
    hours, colon, minutes = word.replace(",", "").partition(":")
    if colon and minutes.isdecimal() and hours.isdecimal():
        return Fraction(int(hours)) + Fraction(int(minutes), 60)
    try:
        return Fraction(hours)
    except ValueError:
        return Fraction(int("".join(character for character in word if character.isdecimal()) or "0"))


def _scaled(value: Fraction, tokens: Sequence[_Token], at: int) -> tuple[Fraction, int, bool]:
    """Apply "hundred and five", "million", and "k" to a number that ends at `at`."""
    while at < len(tokens) and (scale := lex.SCALES.get(tokens[at].word)):
        value *= scale
        at += 1
        following = at + 1 if at < len(tokens) and tokens[at].word == "and" else at
        if following < len(tokens) and tokens[following].word in lex.NUMBERS:
            tail, at, _ = _number_at(tokens, following)
            value += tail or 0
    if at < len(tokens) and tokens[at].word == "k":
        return value * 1_000, at + 1, False
    return value, at, False


def _unit_at(tokens: Sequence[_Token], at: int) -> tuple[str, int, int]:
    """Return the unit at `at` ("" when there is none), its factor, and where it ends; "5-year-old" is 5 years.

    For a length of the answer an adjective may stand between: "one short sentence".
    """
    if at < len(tokens) and tokens[at].word == "°" and at + 1 < len(tokens):
        at += 1
    if at < len(tokens) and tokens[at].word in lex.UNITS:
        unit, factor = lex.UNITS[tokens[at].word]
        return unit, factor, at + 1
    if at + 1 < len(tokens) and tokens[at + 1].word in lex.UNITS:
        unit, factor = lex.UNITS[tokens[at + 1].word]
        if unit in lex.LENGTH_UNITS:
            return unit, factor, at
    return "", 1, at


def _daytime(following: Sequence[_Token]) -> str:
    """Read "seven in the morning" as 7 am."""
    for token in following:
        if token.word in lex.DAYTIMES:
            return lex.DAYTIMES[token.word]
    return ""


# Checks -------------------------------------------------------------------------------------------------------------
# Each returns the two values that differ, or None.

_Values = tuple[str, str] | None


def _length(left: Reading, right: Reading) -> _Values:
    asked, stored = (
        sorted(quantity.shown for quantity in reading.quantities if quantity.unit in lex.LENGTH_UNITS)
        for reading in (left, right)
    )
    return None if asked == stored else (_shown(asked), _shown(stored))


def _number(left: Reading, right: Reading) -> _Values:
    asked, stored = _firm(left), _firm(right)
    if max(len(asked), len(stored)) > MATCHED_NUMBERS and asked != stored:
        return f"{len(asked)} numbers", f"{len(stored)} other numbers"
    unmatched = list(stored)
    for quantity in asked:
        twin = next((other for other in unmatched if _agree(quantity, other)), None)
        if twin is None:
            return _shown(q.shown for q in asked), _shown(q.shown for q in stored)
        unmatched.remove(twin)
    if unmatched or Counter(left.operators) != Counter(right.operators):
        return (
            _shown([*(q.shown for q in asked), *left.operators]),
            _shown([*(q.shown for q in stored), *right.operators]),
        )
    return None


def _firm(reading: Reading) -> list[Quantity]:
    """Return the numbers that are numbers for sure, and lengths of the answer left out."""
    return [q for q in reading.quantities if not q.is_loose and q.unit not in lex.LENGTH_UNITS]


def _agree(one: Quantity, other: Quantity) -> bool:
    if one.unit and other.unit:
        return one.unit == other.unit and one.value == other.value
    return one.written == other.written


def _number_order(left: Reading, right: Reading) -> _Values:
    """Object to "25 - 17" for "17 - 25": plain numbers in another order are another calculation."""
    asked, stored = ([q.shown for q in _firm(reading) if not q.unit] for reading in (left, right))
    if len(asked) < 2 or asked == stored:
        return None
    return " ".join(asked), " ".join(stored)


def _date(left: Reading, right: Reading) -> _Values:
    # The time of day beside a clock time is already in the number.
    clock = {q.unit for reading in (left, right) for q in reading.quantities} & {"am", "pm"}
    spoken = frozenset(lex.DAYTIMES) if clock else frozenset()
    asked, stored = left.calendar - spoken, right.calendar - spoken
    if not (asked & lex.FREQUENCIES and stored & lex.FREQUENCIES):
        asked, stored = asked - lex.FREQUENCIES, stored - lex.FREQUENCIES
    return None if asked == stored else (_shown(asked), _shown(stored))


def _negation(left: Reading, right: Reading) -> _Values:
    asked, stored = _negations(left, right), _negations(right, left)
    if len(asked) != len(stored):
        return _shown(asked), _shown(stored)
    return _negating_prefix(left, right) or _swapped(_negating_prefix(right, left))


def _negations(reading: Reading, other: Reading) -> list[str]:
    """Return the words that turn a meaning around; "stop" does so before what is no longer to be done.

    "non" turns one word around ("non-members"), so it counts only where the other text has that word.
    """
    words = reading.words
    found = [word for word in words if (word in lex.NEGATORS and word != "non") or lex.stem(word) in lex.PREVENTERS]
    found += [word for word, negated in pairwise(words) if word == "non" and canonical(negated) in other.stems]
    found += [
        sign for word in words if not word.isascii() for sign in lex.UNSPACED_NEGATORS for _ in range(word.count(sign))
    ]
    return found + [word for word, doing in pairwise(words) if word == "stop" and doing.endswith("ing")]


def _negating_prefix(plain: Reading, negated: Reading) -> _Values:
    """Find a word of `plain` that `negated` has only with un-, non-, in- and the like, or with -less for -ful."""
    for word in plain.stems - negated.stems:
        if len(word) < 3:
            continue
        for other in (
            prefix + word for prefix in lex.NEGATING_PREFIXES if prefix not in plain.words or prefix in _WORDS
        ):
            if other in negated.stems and other not in plain.stems:
                return word, other
        if word.endswith("ful") and word[:-3] + "less" in negated.stems:
            return word, word[:-3] + "less"
    return None


_WORDS = frozenset({"a", "in", "de"})
"""Negating prefixes that are words of their own: "in" beside "visible" makes no "invisible", "non" does "non-stick"."""


def _swapped(values: _Values) -> _Values:
    return None if values is None else (values[1], values[0])


def _antonym(left: Reading, right: Reading) -> _Values:
    asked, stored = left.stems - right.stems, right.stems - left.stems
    if not asked or not stored:
        return None
    for one, other in lex.ANTONYMS:
        for here, there in ((one, other), (other, one)):
            if (mine := asked & here) and (theirs := stored & there) and not (stored & here or asked & there):
                return _shown(mine), _shown(theirs)
    return _particle(left, right)


def _particle(left: Reading, right: Reading) -> _Values:
    """Object to "turn off" for "turn on", wherever the particle stands after its verb."""
    for on, off in (("on", "off"), ("in", "out"), ("up", "down")):
        asked, stored = (_particle_of(reading, on, off) for reading in (left, right))
        if asked and stored and asked != stored:
            return asked, stored
    return None


def _particle_of(reading: Reading, on: str, off: str) -> str:
    """Return `off` when the text has it, `on` when a verb that takes it has it within reach, else ""."""
    words = reading.words
    if off in words:
        return off
    verbs = [at for at, word in enumerate(words) if lex.stem(word) in lex.PARTICLES]
    return on if any(on in words[at + 1 : at + 5] for at in verbs) else ""


def _entity(left: Reading, right: Reading) -> _Values:
    """Object when a name of one text does not occur in the other at all, in any case."""
    missing, extra = left.names - right.stems, right.names - left.stems
    return (_shown(missing), _shown(extra)) if missing or extra else None


_MARKERS = frozenset("from to into than by over with versus against via on in under for of".split())  # noqa: SIM905
_ENUMERATORS = frozenset({"and", "or", "between", "versus", "vs"})
"""Around these the order of names says nothing."""
_DIRECTED = ("from", "to", "into", "than", "by", "over")


def _order(left: Reading, right: Reading) -> _Values:
    if lex.stem("distance") in left.stems & right.stems:
        return None
    names = left.names & right.names
    is_said = False  # which way, with the same words
    for marker in _DIRECTED:
        here, there = _after(left, marker), _after(right, marker)
        if here and there and not here & there and here <= right.stems and there <= left.stems:
            return f"{marker} {_shown(here)}", f"{marker} {_shown(there)}"
        is_said = is_said or bool(here & names and here & names == there & names)
    asked, stored = (_shared_names(reading, names) for reading in (left, right))
    if asked != stored and not is_said and not _ENUMERATORS & {*left.words, *right.words}:
        return " ".join(asked), " ".join(stored)
    if _turned_around(left.content, right.content):
        return " ".join(left.content[:ORDERED_WORDS]), " ".join(right.content[:ORDERED_WORDS])
    return None


def _shared_names(reading: Reading, names: frozenset[str]) -> list[str]:
    """Return the names that both texts have, in this text's order of first mention."""
    return list(dict.fromkeys(word for word in reading.content if word in names))


def _after(reading: Reading, marker: str) -> frozenset[str]:
    """Return the stems of the content words between `marker` and the next marker."""
    found: set[str] = set()
    inside = False
    for word in reading.words:
        if word in _MARKERS:
            inside = word == marker
        elif inside and word not in lex.STOPWORDS:
            found.add(canonical(word))
    return frozenset(found)


def _turned_around(asked: Sequence[str], stored: Sequence[str]) -> bool:
    """Tell that the same words stand around one of them in reverse ("dogs eat cats", "cats eat dogs").

    Moving a part to the front ("on my phone, how do I …") or swapping neighbours ("x and y", "y and x") is no reversal.
    """
    if asked == stored or sorted(asked) != sorted(stored) or len(set(asked)) != len(asked):
        return False
    if len(asked) > ORDERED_WORDS:
        return True
    place = {word: at for at, word in enumerate(stored)}
    order = [place[word] for word in asked]
    return any(
        order[first] > order[middle] > order[last]
        for first in range(len(order))
        for middle in range(first + 1, len(order))
        for last in range(middle + 1, len(order))
    )


def kinds(asked: Reading, stored: Reading) -> tuple[str, str]:
    """Return what kind of answer each text asks for; "" where it does not say (a command, a statement)."""
    return _kind(asked.words), _kind(stored.words)


def _question(left: Reading, right: Reading) -> _Values:
    asked, stored = kinds(left, right)
    if asked == stored or not asked or not stored:
        return None
    if "yes or no" in {asked, stored} and all(_CHOICES & set(reading.words) for reading in (left, right)):
        return None  # "Which is better, tea or coffee?", "Is tea better than coffee?"
    return None if frozenset({asked, stored}) in _COMPATIBLE_KINDS else (asked, stored)


def _only_describes(words: Sequence[str], at: int) -> bool:
    """Tell that a question word follows a noun: "someone who is allergic" asks for nobody."""
    if at == 0 or words[at] not in lex.RELATIVE:
        return False
    before = words[at - 1]
    asks = before in lex.STOPWORDS or before in lex.ASKING or before in _FILLERS
    return not asks or before in {"someone", "those", "anyone"}


_CHOICES = frozenset({"or", "than", "versus", "vs"})
"""Words of questions that name what may be chosen."""

_COMPATIBLE_KINDS = frozenset(
    frozenset(pair)
    for pair in (
        # "What …" may ask for a person, place, time or amount, and one answer tells what to do and how.
        *(("what", kind) for kind in ("who", "where", "when", "how", "how many", "how much", "how often", "how long")),
        # "Can I pay by card?", "How do I pay by card?": the score decides.
        ("how", "yes or no"),
        # "What makes it so hard?" asks why, "What makes a good leader?" does not, and "How is it made?" may be either.
        *(("reason", kind) for kind in ("why", "what", "how")),
    )
)


_AMOUNTS = {
    "many": "how many",
    "much": "how much",
    "often": "how often",
    "long": "how long",
    "soon": "how long",
    "quickly": "how long",
}
_FILLERS = frozenset("so um uh er erm hi hello hey okay ok yeah please sorry well there".split())  # noqa: SIM905
_DURATIONS = frozenset(["seconds", "minutes", "hours", "days", "weeks", "months", "years", "time"])


def _kind(words: Sequence[str]) -> str:
    """Return what kind of answer is asked for; "" when the text does not say (a command, a statement)."""
    start = 0
    while start < len(words) and words[start] in _FILLERS:
        start += 1
    opening = words[start : start + 5]
    is_request = bool(lex.ANYBODY & set(opening[1:2]) and (opening[1] == "you" or lex.REQUESTED & set(opening[2:4])))
    is_request = is_request and (opening[0] in {"can", "could", "will", "would"} or "know" in opening[2:3])
    if opening[:1] and opening[0] in lex.AUXILIARIES and not is_request:
        return "how" if "way" in opening[2:] else "yes or no"
    for at, word in enumerate(words):
        if word in lex.QUESTIONS and not _only_describes(words, at):
            return _kind_of(word, words[at + 1 : at + 9])
    return ""


def _kind_of(word: str, following: Sequence[str]) -> str:
    if word == "how" and following:
        if following[0] in {"many", "much"} and following[1:2] and following[1] in _DURATIONS:
            return "how long"
        return _AMOUNTS.get(following[0], "how")
    if word in {"what", "which"}:
        if lex.MANNER & set(following[:5]):
            return "how"
        return "reason" if lex.REASONS & set(following[:4]) else "what"
    return "who" if word in {"whom", "whose"} else word


def _format(left: Reading, right: Reading) -> _Values:
    asked, stored = _form(left.words), _form(right.words)
    if asked != stored:
        return _shown(asked), _shown(stored)
    task, other = (_task(reading.words) for reading in (left, right))
    return (task, other) if task and other and task != other else None


def _register(left: Reading, right: Reading) -> _Values:
    """Compare for how learned a reader an answer is asked for: what an answer for anybody may or may not serve."""
    asked, stored = (
        {_register_of(before, word) for before, word in pairwise(("", *reading.words)) if word in lex.REGISTERS}
        for reading in (left, right)
    )
    return None if asked == stored else (_shown(asked), _shown(stored))


def _register_of(before: str, word: str) -> str:
    return "simple" if before == "non" else lex.REGISTERS[word]


def _form(words: Sequence[str]) -> frozenset[str]:
    found = {lex.FORMATS[word] for word in words if word in lex.FORMATS}
    found |= {lex.STYLES[word] for word in words if word in lex.STYLES}
    for at, word in enumerate(words):
        before = words[max(0, at - 4) : at]
        if word.removesuffix("s") in lex.WEAK_FORMATS and lex.FORMAT_LEADS & set(before):
            # "Make this sentence shorter" names what is given, "make a sentence" what is wanted.
            found |= set() if lex.POINTERS & set(before[-2:]) else {word.removesuffix("s")}
        if word in lex.LITERALLY and lex.ANSWERING & set(before):
            found.add("exactly")
        if word.startswith(lex.ONLY_ANSWER):
            found.add("only")
    return frozenset(found)


def _task(words: Sequence[str]) -> str:
    """Return the verb that heads a command, after "please", "can you" and the like."""
    for word in words[:5]:
        if word in lex.TASKS:
            return lex.TASKS[word]
        if word not in lex.STOPWORDS:
            return ""
    return ""


def _shown(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "nothing"


_CHECKS: tuple[tuple[Objection, Callable[[Reading, Reading], _Values]], ...] = (
    (Objection.LENGTH, _length),
    (Objection.NUMBER, _number),
    (Objection.ORDER, _number_order),
    (Objection.DATE, _date),
    (Objection.NEGATION, _negation),
    (Objection.ANTONYM, _antonym),
    (Objection.FORMAT, _format),
    (Objection.ENTITY, _entity),
    (Objection.QUESTION, _question),
    (Objection.ORDER, _order),
)
