import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_cache.guard import MAX_CHARACTERS, Objection, difference, object_to, read, without_shared_ending

SUFFIX = " Answer in one short sentence."

DIFFERENT = [
    (Objection.NUMBER, "What is 17 + 25?", "What is 17 + 26?"),
    (Objection.NUMBER, "What is 17 + 25?", "What is 17 - 25?"),
    (Objection.NUMBER, "Convert 5 km to miles", "Convert 5 miles to km"),
    (Objection.NUMBER, "Is a 2-bedroom flat free?", "Is a three-bedroom flat free?"),
    (Objection.NUMBER, "Who was the first president?", "Who was the second president?"),
    (Objection.NUMBER, "Remind me at 7am", "Remind me at 7pm"),
    (Objection.NUMBER, "Is the 9:15 train late?", "Is the 9:45 train late?"),
    (Objection.NUMBER, "What costs £50?", "What costs $50?"),
    (Objection.NUMBER, "What is 15% of 200?", "What is 15 of 200?x 3"),
    (Objection.ORDER, "What is 25 - 17?", "What is 17 - 25?"),
    (Objection.ORDER, "Divide 10 by 2", "Divide 2 by 10"),
    (Objection.DATE, "Are you open on Monday?", "Are you open on Tuesday?"),
    (Objection.DATE, "What is the weather in Rome?", "What is the weather in Rome tomorrow?"),
    (Objection.DATE, "What did we sell last year?", "What did we sell next year?"),
    (Objection.NEGATION, "Which plans include calls?", "Which plans don't include calls?"),
    (Objection.NEGATION, "Is ibuprofen safe?", "Is ibuprofen unsafe?"),
    (Objection.NEGATION, "What's the price for members?", "What's the price for non-members?"),
    (Objection.NEGATION, "Should I water cacti?", "Should I stop watering cacti?"),
    (Objection.NEGATION, "Is argon a harmful gas?", "Is argon a harmless gas?"),
    (Objection.ANTONYM, "What is the largest planet?", "What is the smallest planet?"),
    (Objection.ANTONYM, "How do I turn on the light?", "How do I turn the light off?"),
    (Objection.ANTONYM, "What is the check-in time?", "What is the check-out time?"),
    (Objection.ANTONYM, "Is tea more healthy?", "Is tea less healthy?"),
    (Objection.ENTITY, "What is the capital of France?", "What is the capital of Finland?"),
    (Objection.ENTITY, "what is the capital of austria", "what is the capital of australia"),
    (Objection.ENTITY, "what is the tallest mountain in africa", "what is the tallest mountain in asia"),
    (Objection.ENTITY, "Who wrote Hamlet?", "Who wrote Macbeth?"),
    (Objection.ENTITY, "Does it run on Windows?", "Does it run on macOS?"),
    (Objection.ORDER, "How do I move from savings to checking?", "How do I move from checking to savings?"),
    (Objection.ORDER, "Is a cat bigger than a dog?", "Is a dog bigger than a cat?"),
    (Objection.ORDER, "Do dogs chase cats?", "Do cats chase dogs?"),
    (Objection.ORDER, "Does Brazil beat Germany?", "Does Germany beat Brazil?"),
    (Objection.QUESTION, "Who invented the telephone?", "When was the telephone invented?"),
    (Objection.QUESTION, "What is gold mined for?", "Why is gold mined?"),
    (Objection.QUESTION, "Is the sun a star?", "Why is the sun a star?"),
    (Objection.QUESTION, "What makes bread rise?", "When does bread rise?"),
    (Objection.QUESTION, "Can someone learn chess alone?", "Why learn chess alone?"),
    (Objection.ENTITY, "How big is the US army?", "How big is the Turkish army?"),
    (Objection.ENTITY, "Who rules the US?", "Who rules Turkey?"),
    (Objection.DATE, "What is the daily limit?", "What is the monthly limit?"),
    (Objection.NUMBER, "Solve x - 3", "Solve x + 3"),
    (Objection.NUMBER, "Is it a - b?", "Is it a / b?"),
    (Objection.ORDER, "How do I go from Delhi to Agra?", "How do I go to Delhi from Agra?"),
    (Objection.FORMAT, "Describe HTTP as a table", "Describe HTTP as a list"),
    (Objection.FORMAT, "Give me the planets", "Give me the planets in JSON"),
    (Objection.FORMAT, "Explain the theory", "Translate the theory"),
    (Objection.FORMAT, "Describe whether the lock is safe.", "Reply exactly: safe"),
    (Objection.FORMAT, "Explain the check's result.", "Answer passed/failed for the check's result."),
    (Objection.NEGATION, "这个设置是安全的。", "这个设置不是安全的。"),
    (Objection.FORMAT, "解释这个请求是否安全。", "只回答一个词: 安全"),
    (Objection.REGISTER, "Explain rain", "Explain rain in simple terms"),
    (Objection.REGISTER, "Explain rain to beginners", "Explain rain to experts"),
    (Objection.SCRIPT, "\u89e3\u91ca\u96e8\u6c34\u3002", "\u89e3\u91ca\u98ce\u666f\u3002"),
    (Objection.SCRIPT, "Explain \u0434\u043e\u0436\u0434\u044c", "Explain \u0441\u043d\u0435\u0433"),
    (Objection.FORMAT, "Explain rain briefly", "Explain rain in detail"),
    (Objection.LANGUAGE, "Explain rain in French", "Explain rain in German"),
    (Objection.LENGTH, "Explain rain in one sentence", "Explain rain in three sentences"),
    (Objection.LENGTH, "What is rain? Answer in one word.", "What is rain? Answer in one short sentence."),
    (Objection.LENGTH, "What is rain?", "What is rain? Answer in one short sentence."),
]

ALIKE = [
    ("What's the capital city of France?", "What is the capital of France?"),
    ("WHAT IS THE CAPITAL OF FRANCE?", "what is the capital of france"),
    ("Which city is Australia's capital?", "What is the capital of Australia?"),
    ("Who wrote Hamlet?", "Who is the author of Hamlet?"),
    ("Can I return it after 14 days?", "Can I return it after two weeks?"),
    ("Remind me at 7am", "Remind me at seven in the morning"),
    ("Transfer £50 to Ann", "Transfer fifty pounds to Ann"),
    ("What is 15% of 1,000?", "What is fifteen percent of 1000?"),
    ("How long should a 2kg chicken roast?", "How long should a 2 kilo chicken roast?"),
    ("What time does it open?", "When does it open?"),
    ("How do I set up voicemail on my phone?", "On my phone, how do I set up voicemail?"),
    ("What separates a virus and bacteria?", "What separates bacteria and a virus?"),
    ("How far is the Moon from the Earth?", "What is the distance from the Earth to the Moon?"),
    ("I can't log in", "I cannot log in"),
    ("How do I set up 2FA?", "How do I set up two-factor authentication?"),
    ("Is there a way to export it?", "How do I export it?"),
    ("Why does n't it work?", "Why does it not work?"),
    ("Hi, how do I bleed a radiator? Thanks!", "How do I bleed a radiator?"),
    ("Explain rain in 1 sentence", "Explain rain in one sentence"),
    ("Which phone plan is the cheapest?", "cheapest phone plan - which one?"),
    ("Who is the best rapper alive?", "Who is the best living rapper?"),
    ("What is the best non-stick pan?", "What nonstick pan is the best?"),
    ("Where can I sell second-hand books?", "Where can I sell used books?"),
    ("How many people live in the US?", "how many people live in the us"),
    ("How many people live in the US?", "How many people live in America?"),
    ("Which games run on a PC?", "Which games run on a computer?"),
    ("Why is Elden Ring so hard?", "What makes Elden Ring so hard?"),
    ("What is octane?", "Can someone tell me what octane is?"),
    ("What is WhatsApp Business?", "Does anyone know what WhatsApp Business is?"),
    ("How often should I wash my hair?", "How many times should I wash my hair?"),
    ("Is tea better than coffee?", "Which is better, tea or coffee?"),
    ("What is the yearly pay of a judge?", "What is the pay of a judge?"),
    ("How do I get from Delhi to Manali?", "How do I get to Manali from Delhi?"),
    ("Is Waze better than Google Maps?", "Google Maps or Waze, is one better?"),
]


@pytest.mark.parametrize(("objection", "asked", "stored"), DIFFERENT)
def test_what_changes_the_answer_is_objected_to_in_both_directions(objection: Objection, asked: str, stored: str):
    assert object_to(asked, stored) is objection
    assert object_to(stored, asked) is objection


@pytest.mark.parametrize(("asked", "stored"), ALIKE)
def test_what_does_not_change_the_answer_passes(asked: str, stored: str):
    assert difference(asked, stored) is None
    assert difference(stored, asked) is None


@pytest.mark.parametrize(("asked", "stored"), ALIKE)
def test_a_shared_instruction_at_the_end_changes_nothing(asked: str, stored: str):
    assert difference(asked + "." + SUFFIX, stored + "." + SUFFIX) is None


def test_an_objection_carries_both_values():
    found = difference("What is the capital of France?", "What is the capital of Finland?")
    assert found is not None
    assert (found.asked, found.stored) == ("france", "finland")


def test_a_text_beyond_the_limit_is_not_compared():
    assert object_to("a" * (MAX_CHARACTERS + 1), "a") is Objection.TOO_LONG


def test_the_shared_ending_is_cut_by_whole_sentences():
    asked, stored = without_shared_ending("Is it red? Be brief.", "Is it blue? Be brief.")
    assert (asked, stored) == ("Is it red?", "Is it blue?")


def test_a_text_that_is_only_the_shared_ending_is_kept():
    assert without_shared_ending("Be brief.", "Is it blue? Be brief.") == ("Be brief.", "Is it blue? Be brief.")


def test_a_decimal_point_ends_no_sentence():
    assert without_shared_ending("Is 3.5 odd?", "Is 4.5 odd?") == ("Is 3.5 odd?", "Is 4.5 odd?")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two hundred and five", "205"),
        ("twenty-five km", "25000000 mm"),
        ("three million euros", "3000000 eur"),
        ("2.5k users", "2500"),
        ("an 18-year-old", "216 month"),
        ("the 3rd try", "3"),
        ("a dozen", "12"),
        ("the 20's", "20"),
    ],
)
def test_numbers_are_read_in_digits_and_words(text: str, shown: str):
    assert [quantity.shown for quantity in read(text).quantities] == [shown]


TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            [*"£$%+-:.,?'", "5", "9:15", "1.2.3", "two", "hundred", "and", "km", "not", "n't", "it's", "Paris"]
        )
    ).map(" ".join),
)


@given(text=TEXTS)
def test_a_text_never_differs_from_itself(text: str):
    assert difference(text, text) is None


@given(asked=TEXTS, stored=TEXTS)
def test_any_two_texts_can_be_compared(asked: str, stored: str):
    assert object_to(asked, stored) in {None, *Objection}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("word", ["1 ", "five hundred and ", "cat dog ", "un", "A. ", "'", "1.", "° "])
def test_a_repetitive_text_is_compared_quickly(word: str):
    text = (word * MAX_CHARACTERS)[: MAX_CHARACTERS - 1]
    for _ in range(20):
        object_to(text, text[: MAX_CHARACTERS // 2] + "x" + text[MAX_CHARACTERS // 2 :])


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("Rita is 51. Paul is 23. How old is Rita?", "Rita is 51. Paul is 23. How old is Paul?"),
        (
            "A sofa is $340, a mirror $75. What does the sofa cost?",
            "A sofa is $340, a mirror $75. What does the mirror cost?",
        ),
        ("Send it to Vienna by Thursday. On which day?", "Send it to Vienna by Thursday. To which city?"),
    ],
)
def test_two_questions_about_one_passage_are_two_questions(asked: str, stored: str):
    assert object_to(asked, stored) is not None


def test_the_same_passage_and_question_in_other_case_is_no_objection():
    assert object_to("Rita is 51. How old is Rita?", "Rita is 51. How old is Rita?") is None
