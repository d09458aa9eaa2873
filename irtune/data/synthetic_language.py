"""The small language of the synthetic revisions: the slots of a sentence, and the edits that each slot allows.

A sentence is ``opener + joint(clause, second clause)``. Each slot can be edited with each of the five intentions, so
neither the place of an edit nor a single word gives its intention away. In the tables, ``before > after`` pairs stand
between bars. A scene fills ``{noun}`` and the like (see ``new_scene``); the joint's ``{a}`` and ``{b}`` are clauses.
"""

import random
from collections.abc import Mapping

INTENTIONS = ("clarity", "fluency", "coherence", "style", "meaning-changed")
# An edit of these may go either way; the others repair, shorten or connect, which has one direction.
SYMMETRIC = frozenset({"style", "meaning-changed"})
# The slots that a sentence of one clause does without.
SECOND_CLAUSE = frozenset({"joint", "second subject", "predicate"})

WORDS: Mapping[str, str] = {
    "noun": """nurse driver teacher student farmer lawyer baker pilot clerk singer painter guard editor judge
        sailor cook dentist tailor plumber waiter butcher porter gardener miner banker tourist drummer hunter
        ranger barber""",
    "name": "Maria Peter Amina Viktor Chloe Rashid Ingrid Tomas Yuki Nadia Oscar Priya",
    "verb": "carried moved cleaned painted counted wrapped dropped stored mended weighed labelled ordered washed",
    "item": """box letter key chair map ticket lamp clock book bottle coat basket report camera ladder blanket
        carpet table orange umbrella envelope engine apple egg arrow""",
    "number": "two three four five six seven eight nine ten twelve twenty forty",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January March April June July August October December",
    "place": "kitchen garden station harbour library market school museum cellar office hotel barn",
}

# How a slot reads where nothing is edited, one of these.
PLAIN: Mapping[str, str] = {
    "opener": "",
    "subject": "the {noun} | our {noun} | {name}",
    "verb": "{verb} | {verb} | never {verb} | sold | found | kept | bought",
    "object": "{number} {items} | the {items} | {an} {item} | many {items}",
    "setting": "| | | on {day} | in the {place} | in {month} | yesterday",
    "second subject": "the {noun} | {name} | he | she",
    "predicate": """was late | was tired | left early | went home | stayed inside | needed help | felt ill |
        slept well | said nothing | grew angry | was ready | worked alone | took a break | knew the plan |
        forgot the time""",
    "joint": """{a} because {b} | {a}, but {b} | {a}, so {b} | {a} and {b} | {a} while {b} | {a} before {b} |
        {a}. {b} | although {b}, {a} | {a} after {b} | {a} if {b} | when {b}, {a} | {a}. However, {b} |
        {a}. Afterwards, {b}""",
}

OPENER = {
    "clarity": """it should be noted that > | the fact is that > | as far as that is concerned, > |
        in May of the year, > in May, | in the month of May, > in May, | at an earlier date, > earlier, |
        what happened is that > | it was the case that >""",
    "fluency": """in yesterday, > yesterday, | on last May, > last May, | in that day, > on that day, |
        one days, > one day, | acording to them, > according to them, | in monday, > on Monday, |
        at first of all, > first of all,""",
    "coherence": """> as a result, | > in contrast, | > first, | > finally, | > for example, | > meanwhile, |
        > therefore, | also, > however, | then, > for this reason, | > consequently,""",
    "style": """honestly, > | well, > | thank goodness, > fortunately, | you know, > | sad to say, > regrettably, |
        guess what: > | oh wow, > surprisingly, | no way, > remarkably,""",
    "meaning-changed": """> yesterday, | > in France, | in 1998, > in 2003, | this year, > last year, |
        > after the war, | in Rome, > in Cairo, | > at dawn, | perhaps >""",
}
SUBJECT = {
    "clarity": """the person who bakes bread > the baker | the one driving the bus > the driver |
        the person > the {noun} | the person who teaches the class > the teacher |
        the individual in charge > the manager | someone > the {noun} | the worker who fixes pipes > the plumber |
        a certain individual > a {noun} | the person in question > the {noun} |
        the man who cuts hair > the barber | the person flying the plane > the pilot |
        a person who was a {noun} > a {noun}""",
    "fluency": """{noun} > the {noun} | the the {noun} > the {noun} | the {misspelled_noun} > the {noun} |
        a {noun}s > a {noun} | an the {noun} > the {noun} | this {noun}s > this {noun}""",
    "coherence": """the {noun} > the {noun}, however, | the {noun} > the {noun}, therefore, |
        a {noun} > this {noun} | the {noun} > that same {noun} | the {noun} > the {noun}, in turn, |
        the {noun} > the {noun}, too,""",
    "style": """the kid > the child | the boss > the supervisor | the cop > the police officer |
        the guy > the man | my mom > my mother | the doc > the physician | my buddy > my friend |
        the prof > the professor | granny > my grandmother | the newbie > the novice |
        the poor {noun} > the {noun} | that stupid {noun} > the {noun}""",
    "meaning-changed": """the {noun} > the {other_noun} | {name} > {other_name} | every {noun} > no {noun} |
        the {noun} > the young {noun} | the {noun} > {name}""",
}
SECOND_SUBJECT = {
    **SUBJECT,
    "fluency": SUBJECT["fluency"] + " | him > he | her > she | them > they | she she > she",
    "coherence": """the {noun} > he | the {noun} > she | a {noun} > this {noun} | the {noun} > the {noun} also |
        the {noun} > the {noun}, too, | {name} > she therefore | {name} > he then | the {noun} > the latter""",
    "meaning-changed": SUBJECT["meaning-changed"] + " | he > she | nobody > the {noun}",
}
VERB = {
    "clarity": """made a count of > counted | did the cleaning of > cleaned |
        carried out an inspection of > inspected | made a purchase of > bought | was able to find > found |
        came into possession of > received | performed a repair of > repaired | effected a move of > moved |
        gave a push to > pushed | made a list of > listed | took measurements of > measured |
        was in a position to lift > could lift | dealt with > cleaned""",
    "fluency": """selled > sold | finded > found | buyed > bought | losed > lost | breaked > broke | hided > hid |
        sended > sent | choosed > chose | taked > took | bringed > brought | keeped > kept | holded > held |
        has took > has taken | did not found > did not find | had broke > had broken | was sell > was selling |
        did {verb} > {verb} | have {verb} > has {verb} | {misspelled_verb} > {verb}""",
    "coherence": "{verb} > then {verb} | {verb} > therefore {verb} | {verb} > also {verb} | {verb} > thus {verb}",
    "style": """got rid of > discarded | picked up > collected | checked out > examined | grabbed > took |
        swiped > stole | messed up > damaged | fixed up > repaired | handed over > delivered |
        looked for > sought | bought > purchased | hung on to > retained | asked for > requested |
        lugged > transported | chucked > threw | got > obtained | didn't want > did not want |
        really {verb} > {verb} | kind of {verb} > {verb}""",
    "meaning-changed": """opened > closed | bought > sold | lost > found | sent > received | hid > showed |
        built > burned | borrowed > returned | packed > unpacked | lifted > lowered | liked > hated |
        {verb} > never {verb} | {verb} > {other_verb} | has {verb} > will have {verb}""",
}
OBJECT = {
    "clarity": """a large number of {items} > many {items} |
        {number} different separate {items} > {number} {items} | some things > some {items} |
        all of the {items} that there were > all the {items} | it > the {item} |
        a few of these and those {items} > some {items} | small-sized {items} > small {items}""",
    "fluency": """{number} {item} > {number} {items} | {wrong_an} {item} > {an} {item} |
        much {items} > many {items} | {item} > the {item} | a {items} > the {items} |
        {number} {misspelled_item} > {number} {items} | the the {items} > the {items}""",
    "coherence": """the {items} > these {items} | the {items} > those same {items} | {items} > such {items} |
        the {items} > the {items} as well | the {items} > the {items}, too, | the {items} > the same {items}""",
    "style": """loads of {items} > many {items} | a ton of {items} > numerous {items} |
        the damn {items} > the {items} | tons of {items} > many {items} |
        {number} awesome {items} > {number} {items} | a couple {items} > several {items}""",
    "meaning-changed": """{number} {items} > {other_number} {items} | the {items} > the {other_item}s |
        all {items} > some {items} | the {items} > the wooden {items} | many {items} > few {items} |
        the {items} > {number} {items}""",
}
SETTING = {
    "clarity": """at that point in time > then | on a daily basis > daily | in a careful manner > carefully |
        at some point > on {day} | somewhere > in the {place} | at an early hour > early |
        in a place nearby > nearby | for the duration of a week > for a week |
        in close proximity to the door > near the door | in a quick way > quickly |
        with the use of a truck > by truck | in the month of {month} > in {month} |
        inside of the {place} > in the {place} | on the occasion of {day} > on {day}""",
    "fluency": """since two days > for two days | careful > carefully | quick > quickly | in the noon > at noon |
        on the morning > in the morning | by foot > on foot | with train > by train | in last week > last week |
        easy > easily | every days > every day | in night > at night | in {day} > on {day} |
        at {month} > in {month} | in {place} > in the {place} | in in the {place} > in the {place} |
        in the {misspelled_place} > in the {place}""",
    "coherence": """> instead | > as well | > in turn | > for this reason | > at the same time |
        in the {place} > there | on {day} > then""",
    "style": """a bit later > subsequently | right away > immediately | asap > promptly |
        now and then > occasionally | in no time > rapidly | on the spot > instantly | after a while > eventually |
        for ages > for a long period | big time > considerably | all the time > constantly |
        like crazy > vigorously | pretty often > frequently | in the lovely {place} > in the {place} |
        in the lousy {place} > in the {place}""",
    "meaning-changed": """before lunch > after lunch | at noon > at midnight | > without permission | > for free |
        alone > together | slowly > quickly | upstairs > downstairs | indoors > outdoors | > by mistake |
        last year > last week | on {day} > on {other_day} | in the {place} > in the {other_place} |
        > in the {place} | > on {day}""",
}
PREDICATE = {
    "clarity": """was in a state of anger > was angry | had a need for help > needed help |
        came to an agreement > agreed | was in possession of a car > had a car |
        made the decision to leave > decided to leave | was not able to wait > could not wait |
        gave an answer of some kind > answered | reached the end > finished | voiced a complaint > complained |
        had a feeling of fear > was afraid | was of the same opinion > agreed |
        did not have the money that it takes to pay > could not pay""",
    "fluency": """goed home > went home | feeled ill > felt ill | were tired > was tired | have left > has left |
        was been late > was late | did not slept > did not sleep | leaved early > left early |
        knowed it > knew it | are ready > is ready | was agree > agreed | was more happier > was happier |
        wanted sleep to > wanted to sleep""",
    "coherence": """{predicate} > also {predicate} | {predicate} > therefore {predicate} |
        {predicate} > then {predicate} | {predicate} > {predicate} as well | {predicate} > consequently {predicate}""",
    "style": """was fed up > was dissatisfied | was super tired > was exhausted | freaked out > panicked |
        was broke > lacked money | wasn't ready > was not ready | didn't help > did not help |
        took off > departed | couldn't wait > could not wait | hung around > remained |
        was kind of late > was somewhat late | was okay with it > consented | showed up > arrived""",
    "meaning-changed": """was early > was late | left > stayed | was pleased > was angry |
        was late > was not late | agreed > refused | won > lost | could wait > could not wait |
        was rich > was poor | slept > worked | needed help > needed no help | remembered > forgot |
        was awake > was asleep""",
}
JOINT = {
    "clarity": """{a} due to the fact that {b} > {a} because {b} |
        in spite of the fact that {b}, {a} > although {b}, {a} | {a} at the same time as {b} > {a} while {b} |
        {a} in the event that {b} > {a} if {b} | {a} until such time as {b} > {a} until {b} |
        {a} for the reason that {b} > {a} because {b} | at the point when {b}, {a} > when {b}, {a} |
        {a} prior to the time when {b} > {a} before {b}""",
    "fluency": """{a} becuase {b} > {a} because {b} | although {b}, but {a} > although {b}, {a} |
        {a} befor {b} > {a} before {b} | {a}, so that because {b} > {a} because {b} |
        {a} and and {b} > {a} and {b} | {a} untill {b} > {a} until {b} | {a} whit {b} > {a} while {b} |
        {a}, {b} > {a}; {b} | despite {b}, {a} > although {b}, {a}""",
    "coherence": """{a}. {b} > {a} because {b} | {a}. {b} > {a}, so {b} | {a}. {b} > {a}. However, {b} |
        {a}. {b} > {a}, but {b} | {a} and {b} > {a} because {b} | {a} and {b} > {a}, but {b} |
        {a}. {b} > {b}. Then {a} | {a} because {b} > because {b}, {a} | {a} after {b} > after {b}, {a} |
        {a}. {b} > {a}. Moreover, {b} | {a}. {b} > {a} while {b} | {a}. {b} > although {b}, {a} |
        {a}. {b} > {a}. As a result, {b}""",
    "style": """{a} cuz {b} > {a} because {b} | {a}, so {b} > {a}; hence, {b} | {a} and like {b} > {a} and {b} |
        {a}. But {b} > {a}. Nevertheless, {b} | {a}. Plus, {b} > {a}. Furthermore, {b} | {a}! {b}! > {a}. {b} |
        {a}. Anyway, {b} > {a}. In any case, {b} | {a}. So yeah, {b} > {a}. Accordingly, {b} |
        {a} since {b} > {a} as {b}""",
    "meaning-changed": """{a} before {b} > {a} after {b} | {a} if {b} > {a} unless {b} | {a} and {b} > {a} or {b} |
        {a} because {b} > {a} although {b} | {a} whenever {b} > {a} only once {b} | {a} until {b} > {a} since {b}""",
}


def read_table(table: str) -> tuple[tuple[str, str], ...]:
    """The ``(before, after)`` pairs of a table."""
    pairs = (entry.partition(">") for entry in table.split("|"))
    return tuple((" ".join(before.split()), " ".join(after.split())) for before, _, after in pairs)


SLOTS: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]] = {
    slot: {intention: read_table(table) for intention, table in tables.items()}
    for slot, tables in {
        "opener": OPENER,
        "subject": SUBJECT,
        "verb": VERB,
        "object": OBJECT,
        "setting": SETTING,
        "joint": JOINT,
        "second subject": SECOND_SUBJECT,
        "predicate": PREDICATE,
    }.items()
}
PLAIN_WORDINGS: Mapping[str, tuple[str, ...]] = {
    slot: tuple(" ".join(wording.split()) for wording in plain.split("|")) for slot, plain in PLAIN.items()
}


def new_scene(rng: random.Random) -> dict[str, str]:
    """Words for the placeholders of one clause: two different ones of each kind, and what is made of them."""
    scene = {"a": "{a}", "b": "{b}", "predicate": rng.choice(PLAIN_WORDINGS["predicate"])}
    for kind, words in WORDS.items():
        scene[kind], scene[f"other_{kind}"] = rng.sample(words.split(), 2)
    for kind in ("noun", "verb", "place"):
        scene[f"misspelled_{kind}"] = misspelled(scene[kind], rng)
    scene["items"] = scene["item"] + ("es" if scene["item"].endswith("x") else "s")
    scene["misspelled_item"] = misspelled(scene["items"], rng)
    vowel = scene["item"][0] in "aeiou"
    scene["an"], scene["wrong_an"] = ("an", "a") if vowel else ("a", "an")
    return scene


def misspelled(word: str, rng: random.Random) -> str:
    """``word`` with two neighbouring, different letters behind the first changed over."""
    i = rng.choice([i for i in range(1, len(word) - 1) if word[i] != word[i + 1]])
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
