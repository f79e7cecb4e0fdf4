"""The word tables that the guard reads texts with. English only: other languages meet the score without this help.

Everything here is lower case; tables of word forms are reduced to stems when the module is imported. The tables were
written from general knowledge of English and with the calibration pairs (fow_pairs) in view, never from other test
questions. A word missing here costs a hit or leaves the decision to the score; a wrong entry under SYNONYMS could serve
a wrong answer, so that table holds only words that are interchangeable in a question.
"""

# ruff: noqa: SIM905 - tables of words are read, and extended, as words

from __future__ import annotations


def stem(word: str) -> str:
    """Strip plural, -ly, -ed, -ing and a final e, and settle British spellings on American ones.

    Two forms of a word must meet; that the result is no word does not matter.
    """
    if len(word) < 4 or not word.isascii():
        return word
    word = _without_ending(_singular(word))
    word = word.removesuffix("e") if len(word) > 3 else word
    for ending, replacement in (("our", "or"), ("tr", "ter"), ("is", "iz"), ("ys", "yz")):
        if word.endswith(ending) and len(word) > 5:
            return word.removesuffix(ending) + replacement
    return word


def _singular(word: str) -> str:
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x")):
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is", "as")) else word


def _without_ending(word: str) -> str:
    if word.endswith("ly") and len(word) > 5:
        word = word.removesuffix("ly")
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and any(vowel in base for vowel in "aeiouy"):
            doubled = len(base) > 3 and base[-1] == base[-2] and base[-1] not in "sz"
            return base[:-1] if doubled else base
    # "fill" and "filling", "call" and "called" meet without their second l.
    return word[:-1] if word.endswith("ll") else word


STOPWORDS = frozenset(
    """
    a an the this that these those i me my mine myself you your yours we us our ours it its am is are was were be been
    being do does did doing done have has had having can could will would shall should may might must ought of to in on
    at by for with from into onto about as and or but if then than so too very just also there here what which who whom
    whose when where why how please thanks thank cheers hi hello hey dear sorry bother silly um uh er erm like okay ok
    yeah yes well many much tell know let want need give show say said get got able possible way located situated
    called actually really exactly currently team ll ve re m d s t some any
    """.split()
)

SYNONYMS: dict[str, str] = {
    stem(word): stem(group[0])
    for group in (
        "big large".split(),
        "biggest largest".split(),
        "small little".split(),
        "smallest littlest".split(),
        "fast quick rapid quickly".split(),
        "fastest quickest".split(),
        "begin start commence began begun".split(),
        "buy purchase bought".split(),
        "film movie".split(),
        "photo picture photograph".split(),
        "shop store".split(),
        "child children kid".split(),
        "write wrote written author writer".split(),
        "invent inventor".split(),
        "paint painter".split(),
        "compose composer".split(),
        "discover discoverer".split(),
        "direct director".split(),
        "mean stand meant".split(),
        "price cost".split(),
        "telephone phone".split(),
        "car automobile".split(),
        "holiday vacation".split(),
        "doctor physician".split(),
        "stop cease".split(),
        "delete erase".split(),
        "build built builder".split(),
        "make made".split(),
        "win won winner".split(),
        "send sent".split(),
        "find found".split(),
        "give gave given".split(),
        "take took taken".split(),
        "eat ate eaten".split(),
        "speak spoke spoken".split(),
        "man men".split(),
        "woman women".split(),
        "person people".split(),
        "foot feet".split(),
        "tooth teeth".split(),
        "mouse mice".split(),
        "autumn fall".split(),
        "repair fix".split(),
        "job occupation".split(),
        "symbol sign".split(),
        "currency money".split(),
        "tv television".split(),
        "plane airplane aeroplane aircraft".split(),
        "gasoline petrol".split(),
        "aid help assist".split(),
        "close shut".split(),
        "create establish".split(),
        "die dead died death".split(),
        "born birth".split(),
        "alive living".split(),
        "computer pc".split(),
        "resume cv".split(),
    )
    for word in group[1:]
}
"""Stem -> the stem that stands for its group."""

PHRASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("2fa",): ("two", "factor", "authentication"),
    ("capital", "city"): ("capital",),
    ("quick", "question"): (),
    ("quick", "one"): (),
    ("how", "come"): ("why",),
    ("how", "many", "times"): ("how", "often"),
    ("second", "hand"): ("used",),
    ("least", "expensive"): ("cheapest",),
    ("in", "the", "us"): ("in", "usa"),
    ("what", "time"): ("when",),
    ("which", "time"): ("when",),
    ("what", "year"): ("when",),
    ("which", "year"): ("when",),
    ("in", "when"): ("when",),
    ("what", "date"): ("when",),
    ("what", "day"): ("when",),
    ("for", "what", "reason"): ("why",),
    ("what", "is", "the", "reason"): ("why",),
    ("what", "should", "i", "do", "to"): ("how", "do", "i"),
    ("what", "do", "i", "do", "to"): ("how", "do", "i"),
    ("what", "do", "i", "need", "to", "do", "to"): ("how", "do", "i"),
    ("what", "must", "i", "do", "to"): ("how", "do", "i"),
    ("what", "can", "i", "do", "to"): ("how", "can", "i"),
    ("can", "not", "remember"): ("forgot",),
    ("do", "not", "remember"): ("forgot",),
    ("do", "not", "know", "how", "to"): ("how", "to"),
    ("am", "not", "sure", "how", "to"): ("how", "to"),
    ("say", "no", "to"): ("decline",),
    ("json", "web", "token"): ("jwt",),
    ("json", "web", "tokens"): ("jwt",),
    ("yes", "or", "no"): ("yesno",),
    ("true", "or", "false"): ("yesno",),
    ("pass", "fail"): ("yesno",),
    ("step", "by", "step"): ("stepwise",),
    ("in", "a", "nutshell"): ("briefly",),
    ("in", "short"): ("briefly",),
    ("one", "liner"): ("briefly",),
    ("tl", "dr"): ("briefly",),
    ("what", "causes"): ("why",),
    ("which", "person"): ("who",),
    ("what", "person"): ("who",),
    ("what", "place"): ("where",),
    ("how", "tall"): ("what", "height"),
    ("how", "high"): ("what", "height"),
    ("how", "deep"): ("what", "depth"),
    ("how", "far"): ("what", "distance"),
    ("how", "heavy"): ("what", "weight"),
    ("how", "old"): ("what", "age"),
    ("how", "big"): ("what", "size"),
    ("united", "kingdom"): ("uk",),
    ("great", "britain"): ("uk",),
    ("united", "states", "of", "america"): ("usa",),
    ("united", "states"): ("usa",),
    ("new", "zealand"): ("newzealand",),
    ("south", "africa"): ("southafrica",),
    ("south", "korea"): ("southkorea",),
    ("north", "korea"): ("northkorea",),
    ("saudi", "arabia"): ("saudiarabia",),
    ("sri", "lanka"): ("srilanka",),
    ("costa", "rica"): ("costarica",),
    ("new", "york"): ("newyork",),
    ("los", "angeles"): ("losangeles",),
    ("hong", "kong"): ("hongkong",),
    ("north", "america"): ("northamerica",),
    ("south", "america"): ("southamerica",),
}
"""Words (in their order, lower case) -> the words they are read as."""

NEGATORS = frozenset("not no never none neither nor nothing nobody nowhere without cannot non".split())

PREVENTERS = frozenset(stem(word) for word in "avoid prevent ban prohibit forbid refuse lack except exclude".split())
"""Verbs that say no without a negator."""

NEGATING_PREFIXES = ("un", "non", "in", "im", "il", "ir", "dis", "de", "anti", "mis", "a")

ANTONYMS = tuple(
    tuple(frozenset(SYNONYMS.get(stem(word), stem(word)) for word in side.split()) for side in pair)
    for pair in (
        ("increase raise grow gain rise more", "decrease reduce lower shrink lose drop fall less fewer"),
        ("add insert attach", "remove delete detach"),
        ("enable activate", "disable deactivate"),
        ("open", "close shut"),
        ("lock", "unlock"),
        (
            "allow permit permitted legal lawful accept include",
            "forbid forbidden ban prohibit illegal unlawful reject exclude avoid",
        ),
        ("approve grant", "reject deny refuse revoke decline"),
        ("benefit advantage pro strength upsid", "drawback disadvantage con weakness downsid"),
        ("best", "worst"),
        ("better", "worse"),
        ("good", "bad poor"),
        ("hot warm hottest warmest", "cold cool coldest coolest"),
        ("high highest", "low lowest"),
        ("tall tallest", "short shortest"),
        ("long longest", "short shortest"),
        ("large largest big biggest", "small smallest tiny"),
        ("more most", "less least fewer fewest"),
        ("maximum max", "minimum min"),
        ("before prior", "after follow"),
        ("within", "after outside beyond"),
        ("over above exceed", "under below beneath"),
        ("first", "last final second third"),
        ("early earlier earliest", "late later latest"),
        ("old older oldest", "new newer newest young younger youngest"),
        ("fast fastest quick", "slow slowest"),
        ("start begin join enrol resume continue", "stop end quit leave withdraw pause cancel finish"),
        ("buy purchase", "sell sold"),
        ("lend", "borrow"),
        ("send", "receive"),
        ("upload", "download"),
        ("encode encrypt compress", "decode decrypt decompress"),
        ("push", "pull"),
        ("win won", "lose lost"),
        ("pass", "fail"),
        ("succeed success successful", "fail failure unsuccessful"),
        ("love like", "hate dislike"),
        ("true correct right", "false wrong incorrect"),
        ("positive", "negative"),
        ("public", "private"),
        ("free", "paid"),
        ("required compulsory mandatory require", "optional voluntary"),
        ("safe", "dangerous unsafe"),
        ("busy", "quiet"),
        ("spicy", "mild"),
        ("hard difficult", "easy simple"),
        ("alive living", "dead die extinct"),
        ("born birth", "die death"),
        ("day daytime", "night"),
        ("morning", "evening night afternoon"),
        ("am", "pm"),
        ("north northern", "south southern"),
        ("east eastern", "west western"),
        ("left", "right"),
        ("next", "last previous"),
        ("top", "bottom"),
        ("up", "down"),
        ("front", "back"),
        ("inside indoor internal", "outside outdoor external"),
        ("male man boy father son brother husband king", "female woman girl mother daughter sister wife queen"),
        ("adult", "child baby teenager"),
        ("parent", "child"),
        ("employee worker employed", "employer unemployed"),
        ("tenant renter", "landlord owner"),
        ("seller vendor", "buyer"),
        ("sender", "recipient receiver"),
        ("host", "guest"),
        ("staging", "production"),
        ("outstanding excellent", "inadequate awful terrible"),
        ("properly correctly", "fault faulty broken defective wrong wrongly"),
        ("teacher", "student pupil"),
        ("doctor", "patient"),
        ("predator", "prey"),
        ("cause", "effect symptom"),
        ("problem", "solution"),
        ("question", "answer"),
        ("input", "output"),
        ("encourag", "discourag"),
        ("attack", "defend"),
        ("full", "empty part"),
        ("always", "never sometimes"),
        ("all every", "none some"),
        ("domestic local national", "international foreign overseas"),
        ("acid", "alkali"),
        ("weekday", "weekend"),
        ("import", "export"),
        ("credit", "debit"),
        ("singular", "plural"),
        ("synonym", "antonym"),
        ("summer", "winter"),
        ("spring", "autumn"),
        ("sunrise", "sunset"),
        ("arriv arrival", "depart departure"),
        ("expensiv dearest costliest", "cheap cheapest"),
        ("hypertension", "hypotension"),
        ("nearest closest", "farthest furthest"),
        ("heaviest heavy", "lightest light"),
        ("visible", "invisible hidden"),
        ("major", "minor"),
    )
)
"""Two sides each, in stems: a text that has one side only contradicts a text that has the other side only."""

PARTICLES = frozenset("opt check log sign turn switch mov cash clock zoom phas sel tak pay put bring".split())
"""Verb stems whose `in`/`on` and `out`/`off` are opposites."""

NUMBERS: dict[str, int] = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}

ORDINALS: dict[str, int] = {
    word: value
    for value, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
        "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        1,
    )
}

SCALES: dict[str, int] = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}

UNITS: dict[str, tuple[str, int]] = {
    name: (unit, factor)
    for names, unit, factor in (
        ("second seconds sec secs", "s", 1),
        ("minute minutes min mins", "s", 60),
        ("hour hours hr hrs", "s", 3_600),
        ("day days", "day", 1),
        ("week weeks", "day", 7),
        ("fortnight", "day", 14),
        ("month months", "month", 1),
        ("year years yr yrs", "month", 12),
        ("decade decades", "month", 120),
        ("century centuries", "month", 1_200),
        ("mm millimetre millimetres millimeter millimeters", "mm", 1),
        ("cm centimetre centimetres centimeter centimeters", "mm", 10),
        ("metre metres meter meters", "mm", 1_000),
        ("km kms kilometre kilometres kilometer kilometers", "mm", 1_000_000),
        ("inch inches", "inch", 1),
        ("foot feet ft", "inch", 12),
        ("yard yards", "inch", 36),
        ("mile miles", "inch", 63_360),
        ("mg milligram milligrams", "mg", 1),
        ("gram grams g", "mg", 1_000),
        ("kg kgs kilo kilos kilogram kilograms", "mg", 1_000_000),
        ("ounce ounces oz", "oz", 1),
        ("lb lbs", "oz", 16),
        ("ml millilitre millilitres milliliter milliliters", "ml", 1),
        ("litre litres liter liters", "ml", 1_000),
        ("kb kilobyte kilobytes", "kb", 1),
        ("mb megabyte megabytes", "kb", 1_000),
        ("gb gigabyte gigabytes", "kb", 1_000_000),
        ("tb terabyte terabytes", "kb", 1_000_000_000),
        ("percent % pct", "percent", 1),
        ("£ pound pounds gbp quid", "gbp", 1),
        ("$ dollar dollars usd buck bucks", "usd", 1),
        ("€ euro euros eur", "eur", 1),
        ("yen jpy ¥", "jpy", 1),
        ("celsius c °c", "celsius", 1),
        ("fahrenheit f °f", "fahrenheit", 1),
        ("kelvin", "kelvin", 1),
        ("kwh", "kwh", 1),
        ("watt watts", "watt", 1),
        ("kilowatt kilowatts kw", "watt", 1_000),
        ("am", "am", 1),
        ("pm", "pm", 1),
        ("bc bce", "bc", 1),
        ("sentence sentences", "sentence", 1),
        ("word words", "word", 1),
        ("paragraph paragraphs", "paragraph", 1),
        ("line lines", "line", 1),
        ("character characters", "character", 1),
        ("bullet bullets", "bullet", 1),
        ("page pages", "page", 1),
        ("step steps", "step", 1),
    )
    for name in names.split()
}
"""Name -> (base unit, how many of it); only factors that are exact and that nobody disputes."""

LENGTH_UNITS = frozenset("sentence word paragraph line character bullet page step".split())

DAYTIMES: dict[str, str] = {"morning": "am", "afternoon": "pm", "evening": "pm", "tonight": "pm", "night": "pm"}

CALENDAR = frozenset(
    """
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
    september october november december today tomorrow yesterday tonight weekday weekend christmas easter spring summer
    autumn winter morning afternoon evening midnight noon ago annually yearly monthly weekly
    daily hourly
    """.split()
)
"""What places a question in time; `may` and `march` count only with a capital inside a sentence."""

OPERATORS = frozenset("+-*/=<>^\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}\N{MINUS SIGN}\N{SQUARE ROOT}")

QUESTIONS = frozenset("who whom whose when where why how which what".split())

AUXILIARIES = frozenset(
    "is are was were am do does did can could will would shall should may might must has have had".split()
)

REASONS = frozenset(
    "reason reasons cause causes caused causing makes made keeps explains drives motivates motive purpose".split()
)
"""After "what" they ask why, though often not only that: "what causes …", "what makes … so …"."""

REQUESTED = frozenset("tell explain describe define clarify show help say know".split())
"""What somebody is asked to do in "can someone explain …" and "does anyone know …", which ask nothing yet."""

ANYBODY = frozenset("you u someone anyone somebody anybody".split())

FREQUENCIES = frozenset("hourly daily weekly monthly yearly annually".split())
"""Entries of CALENDAR that many leave out ("the monthly fee") or put otherwise ("every day"): two of them differ."""

MANNER = frozenset("way process procedure steps method".split())

PLACES: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "afghanistan afghan",
        "albania albanian",
        "algeria algerian",
        "angola angolan",
        "argentina argentine argentinian",
        "armenia armenian",
        "australia australian",
        "austria austrian",
        "azerbaijan azerbaijani",
        "bahrain",
        "bangladesh bangladeshi",
        "barbados",
        "belarus belarusian",
        "belgium belgian",
        "bhutan",
        "bolivia bolivian",
        "bosnia bosnian",
        "botswana",
        "brazil brazilian",
        "bulgaria bulgarian",
        "cambodia cambodian khmer",
        "cameroon",
        "canada canadian",
        "chad",
        "chile chilean",
        "china chinese mandarin",
        "colombia colombian",
        "congo congolese",
        "costarica",
        "croatia croatian",
        "cuba cuban",
        "cyprus cypriot",
        "czechia czech",
        "denmark danish",
        "ecuador ecuadorian",
        "egypt egyptian",
        "england english",
        "eritrea",
        "estonia estonian",
        "ethiopia ethiopian",
        "fiji fijian",
        "finland finnish",
        "france french",
        "gabon",
        "gambia",
        "georgia georgian",
        "germany german",
        "ghana ghanaian",
        "greece greek",
        "guatemala guatemalan",
        "guinea",
        "guyana",
        "haiti haitian",
        "honduras honduran",
        "hungary hungarian",
        "iceland icelandic",
        "india indian hindi",
        "indonesia indonesian",
        "iran iranian persian farsi",
        "iraq iraqi",
        "ireland irish",
        "israel israeli hebrew",
        "italy italian",
        "jamaica jamaican",
        "japan japanese",
        "jordan jordanian",
        "kazakhstan kazakh",
        "kenya kenyan",
        "kuwait kuwaiti",
        "laos lao laotian",
        "latvia latvian",
        "lebanon lebanese",
        "liberia liberian",
        "libya libyan",
        "lithuania lithuanian",
        "luxembourg",
        "madagascar malagasy",
        "malawi",
        "malaysia malaysian malay",
        "mali malian",
        "malta maltese",
        "mauritania",
        "mauritius",
        "mexico mexican",
        "moldova moldovan",
        "monaco",
        "mongolia mongolian",
        "montenegro",
        "morocco moroccan",
        "mozambique",
        "myanmar burma burmese",
        "namibia",
        "nepal nepali nepalese",
        "netherlands dutch holland",
        "newzealand",
        "nicaragua",
        "niger",
        "nigeria nigerian",
        "northkorea",
        "norway norwegian",
        "oman omani",
        "pakistan pakistani urdu",
        "panama",
        "paraguay",
        "peru peruvian",
        "philippines filipino",
        "poland polish",
        "portugal portuguese",
        "qatar qatari",
        "romania romanian",
        "russia russian",
        "rwanda",
        "saudiarabia saudi",
        "scotland scottish",
        "senegal",
        "serbia serbian",
        "singapore",
        "slovakia slovak",
        "slovenia slovenian",
        "somalia somali",
        "southafrica",
        "southkorea korea korean",
        "spain spanish",
        "srilanka",
        "sudan sudanese",
        "sweden swedish",
        "switzerland swiss",
        "syria syrian",
        "taiwan taiwanese",
        "tanzania",
        "thailand thai",
        "tunisia tunisian",
        "turkey turkish",
        "uganda ugandan",
        "uk britain british brits",
        "ukraine ukrainian",
        "uruguay",
        "usa us american america",
        "uzbekistan",
        "venezuela venezuelan",
        "vietnam vietnamese",
        "wales welsh",
        "yemen yemeni",
        "zambia",
        "zimbabwe",
        "africa african",
        "asia asian",
        "europe european eu",
        "antarctica",
        "northamerica",
        "southamerica",
        "oceania",
        "london",
        "paris parisian",
        "rome",
        "berlin",
        "madrid",
        "vienna",
        "moscow",
        "tokyo",
        "beijing",
        "shanghai",
        "delhi",
        "mumbai bombay",
        "kolkata calcutta",
        "chennai madras",
        "bangalore bengaluru",
        "varanasi banaras benares",
        "sydney",
        "melbourne",
        "toronto",
        "montreal",
        "chicago",
        "boston",
        "seattle",
        "houston",
        "dallas",
        "newyork nyc",
        "losangeles",
        "hongkong",
        "dubai",
        "cairo",
        "lagos",
        "nairobi",
        "istanbul",
        "athens",
        "lisbon",
        "dublin",
        "edinburgh",
        "manchester",
        "birmingham",
        "leeds",
        "bristol",
        "glasgow",
        "liverpool",
        "amsterdam",
        "brussels",
        "copenhagen",
        "stockholm",
        "oslo",
        "helsinki",
        "warsaw",
        "prague",
        "budapest",
        "arabic arab",
        "latin",
        "swahili",
        "bengali",
        "atlantic",
        "pacific",
        "arctic",
        "antarctica antarctic",
        "mediterranean",
        "mercury",
        "venus",
        "mars",
        "jupiter",
        "saturn",
        "uranus",
        "neptune",
        "pluto",
        *"hydrogen helium lithium carbon nitrogen oxygen fluorine neon sodium magnesium silicon phosphorus".split(),
        *"chlorine argon potassium calcium titanium chromium manganese cobalt nickel copper zinc arsenic".split(),
        *"bromine silver iodine platinum gold radium uranium plutonium".split(),
        "aluminium aluminum",
        "sulphur sulfur",
    )
    for name in group.split()
}
"""Name or demonym -> the place; and elements. People write them in lower case, and the nearest wrong one is near."""

PLACES_THAT_ARE_WORDS = frozenset("us turkey chad china polish jordan guinea mercury arab latin".split())
"""Entries of PLACES that count only with a capital."""

FORMATS: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "json",
        "yaml",
        "xml",
        "csv",
        "markdown",
        "html",
        "latex",
        "sql",
        "regex",
        "bullet bullets bulleted",
        "poem poems rhyme",
        "haiku",
        "limerick",
        "sonnet",
        "essay",
        "tweet",
        "rap",
        "emoji emojis",
        "diagram",
        "flowchart",
        "pseudocode",
        "python",
        "javascript",
        "typescript",
        "rust",
        "golang",
        "java",
        "kotlin",
        "ruby",
        "perl",
        "bash",
        "powershell",
        "numbered",
        "tabular",
        "spreadsheet",
        "yesno",
    )
    for name in group.split()
}
"""Words that name the form of an answer wherever they stand."""

WEAK_FORMATS = frozenset(
    "table list email letter code story paragraph summary sentence speech script dialogue outline memo report".split()
)
"""Words that name the form of an answer after one of FORMAT_LEADS, and are subjects elsewhere."""

FORMAT_LEADS = frozenset(
    "as in into format write make produce create draft return output compose generate give".split()
)

POINTERS = frozenset("the this that these those my your our his her their its".split())
"""Before a weak format they point at something given ("make this sentence shorter"); a form is asked for with "a"."""

UNSPACED_NEGATORS = ("不", "没", "未", "勿")
"""Signs that negate in Chinese. They also stand in words that negate nothing; a hit lost there is no harm."""

REGISTERS: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "simple simply plain layman laymans eli5 beginner beginners novice",
        "technical technically expert experts",
    )
    for name in group.split()
}
"""Words that say how learned a reader an answer is for."""

LITERALLY = frozenset({"exactly", "verbatim"})
ANSWERING = frozenset("reply respond answer output print say return".split())
"""Before one of LITERALLY they dictate the answer ("Reply exactly: yes"), whatever else the text asks."""

ONLY_ANSWER = ("只回答", "只输出", "只回复", "只返回", "仅回答", "仅输出", "仅回复")
"""The same in Chinese, whose words are not separated: "only answer", "only output", "only reply", "only return"."""

STYLES: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "brief briefly short shortly shorter concise concisely succinct succinctly tldr",
        "detailed detail details thorough thoroughly depth comprehensive lengthy longer",
        "formal formally professional professionally businesslike official officially",
        "informal informally casual casually conversational conversationally colloquial colloquially spoken",
        "funny humorous joke jokes sarcastic",
        "polite politely courteous courteously",
        "only",
        "stepwise",
    )
    for name in group.split()
}
"""Words that set how long, for whom or in what tone to answer."""

TASKS: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "explain describe",
        "answer respond reply",
        "define",
        "summarize summarise",
        "translate",
        "list enumerate",
        "compare contrast",
        "rewrite rephrase paraphrase reword",
        "write compose draft",
        "classify categorize categorise",
        "calculate compute",
        "convert",
        "fix debug repair correct",
        "review critique",
        "shorten",
        "expand",
        "extract",
        "count",
        "sort",
        "simplify",
        "proofread",
    )
    for name in group.split()
}
"""Verbs that, at the head of a request, say what to do with the rest."""

CLOSINGS = frozenset(
    "thanks thank you cheers please hi hello hey so much very many in advance kind regards best".split()
)
"""Sentences of these words alone are manners."""

RELATIVE = frozenset("who whom whose which where when".split())
"""Questions at the head of one; after a noun ("someone who", "the day when") they only describe it."""

ASKING = frozenset(
    "know tell out explain ask asking wonder wondering describe understand find see check learn show say sure".split()
)
"""After these an inner "who" or "where" still asks."""

LANGUAGES: dict[str, str] = {
    name: group.split()[0]
    for group in (
        "english englisch anglais ingl\u00e9s \u82f1\u6587 \u82f1\u8bed",
        "french fran\u00e7ais franz\u00f6sisch franc\u00e9s \u6cd5\u8bed",
        "german deutsch allemand alem\u00e1n \u5fb7\u8bed",
        "spanish espa\u00f1ol spanisch espagnol \u897f\u73ed\u7259\u8bed",
        "italian italiano italienisch",
        "portuguese portugu\u00eas",
        "dutch nederlands",
        "polish polski",
        "swedish svenska",
        "danish dansk",
        "norwegian norsk",
        "finnish suomi",
        "czech",
        "hungarian magyar",
        "romanian",
        "greek",
        "turkish t\u00fcrk\u00e7e",
        "russian \u0440\u0443\u0441\u0441\u043a\u043e\u043c",
        "ukrainian",
        "arabic",
        "hebrew",
        "hindi",
        "urdu",
        "bengali",
        "tamil",
        "thai",
        "vietnamese",
        "indonesian",
        "japanese \u65e5\u672c\u8a9e \u65e5\u8bed",
        "korean \ud55c\uad6d\uc5b4",
        "chinese mandarin \u4e2d\u6587 \u6c49\u8bed",
        "latin",
        "swahili",
    )
    for name in group.split()
}
"""Names of languages, in English and some in their own tongue, that an answer may be asked for in."""

LANGUAGE_LEADS = frozenset("in into to auf en \u7528".split())
"""What stands before the language that an answer shall be in."""

SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0E00, 0x0E7F, "thai"),
    (0x3040, 0x30FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
)
"""First and last code point of scripts; letters of no other are read as Latin."""

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "english": frozenset("the is are of and to in what how do does can you for my it with".split()),
    "spanish": frozenset("el la los las de que y en es por para con como una cu\u00e1l c\u00f3mo qu\u00e9 mi".split()),
    "french": frozenset("le la les des de et est que dans pour une comment quel quelle je mon du".split()),
    "german": frozenset("der die das und ist wie ich ein eine nicht zu den mit f\u00fcr was kann mein".split()),
    "italian": frozenset("il la di che e per un una come sono mio gli del qual \u00e8".split()),
    "portuguese": frozenset("o a os de que e para um uma como \u00e9 meu do da qual n\u00e3o".split()),
    "dutch": frozenset("de het een van en is hoe ik mijn wat niet voor met".split()),
}
"""The commonest words of languages in Latin letters; a text is of the one that clearly has most of its words."""
