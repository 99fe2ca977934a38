"""The sample's vocabulary, first half: what people write about cooking, travel, crafts and gardens.

A subject has three sub-interests and each of them two *voices*: two people who write about the same thing in
different words. Voices share hardly any content word, so counting words (TF-IDF) finds only the notes of the same
voice, while a model that learns from behaviour can learn that the voices belong together. All text is our own.
"""

from __future__ import annotations

from typing import NamedTuple


class Voice(NamedTuple):
    """One way of writing about a sub-interest; each field holds its alternatives separated by ``|``.

    `lines` are sentences with the slots ``{a}`` and ``{b}``, to be filled with two different `things`; titles have at
    most 20 characters and topics at most 16, so that a model's usual limits do not cut them.
    """

    topics: str
    titles: str
    things: str
    lines: str


class Subject(NamedTuple):
    """What a note is about: a category and the voices in which it is written about."""

    category: str
    voices: tuple[Voice, ...]


COOKING = Subject(
    "cooking",
    (
        Voice(
            "sourdough|crust|starter|baking",
            "First rye loaf|Slow sourdough|Crackling crust|Feeding my starter",
            "a rye loaf|the starter|a seeded crust|two baguettes|a tin of brioche|the scored boule",
            "Baked {a} before sunrise and cooled {b} on the rack.|The oven is at full heat for {a}, next comes {b}."
            "|Folded the dough twice, so {a} rose higher than {b}.",
        ),
        Voice(
            "homemade bread|flour|yeast|kneading",
            "Knead and wait|Flour everywhere|Soft milk rolls|Bread day",
            "soft milk rolls|a warm flatbread|plain white bread|the plaited bun|whole wheat toast|a lump of yeast",
            "Kneading {a} by hand calms me; the yeast is for {b}.|Half a bag of flour went into {a} and {b}."
            "|Bread day again: {a} for us, {b} for the neighbours.",
        ),
        Voice(
            "soup|broth|one pot|simmer",
            "Sunday broth|One pot supper|Lentils again|Simmer it low",
            "a lentil soup|clear chicken broth|the thick barley pot|roasted squash soup|a ladle of stock|pea soup",
            "Let {a} simmer for an hour while {b} waits.|In cold weather nothing beats {a}, except {b}."
            "|Skim the broth, salt {a} late and serve it after {b}.",
        ),
        Voice(
            "stew|casserole|slow cooker|comfort food",
            "Slow cooker night|A deep casserole|Braised and happy|Bowls of comfort",
            "braised beans|a beef stew|the bubbling casserole|smoky goulash|a root chilli|curried chickpeas",
            "Eight hours in the slow cooker turned {a} tender, like {b}.|Leftovers: {a} tonight, {b} tomorrow."
            "|Comfort food means {a} with paprika, or {b} if guests come.",
        ),
        Voice(
            "noodles|ramen|wok|chilli oil",
            "Midnight ramen|Wok noodles|Chilli oil dinner|Slurping season",
            "a tangle of ramen|cold soba|crispy wok noodles|sesame udon|glass noodles|a spoon of chilli oil",
            "Tossed {a} in the wok and finished with {b}.|Slurped {a} standing up, then came back for {b}."
            "|Soy, garlic, spring onion: some for {a}, the rest for {b}.",
        ),
        Voice(
            "pasta|sauce|parmesan|semolina",
            "Rolling tagliatelle|Basil and garlic|Ravioli for four|Sauce first",
            "fresh tagliatelle|pumpkin ravioli|a pan of gnocchi|orecchiette|baked lasagne|a tomato sugo",
            "Rolled {a} thin and dressed it like {b}.|Parmesan over {a}, butter and sage for {b}."
            "|Grandmother judged {a} al dente and {b} too soft.",
        ),
    ),
)

TRAVEL = Subject(
    "travel",
    (
        Voice(
            "train travel|railway|sleeper|platform",
            "By night train|Platform nine|Rails going north|Window seat",
            "the sleeper to Vienna|a tiny railway halt|the dining car|the express north|platform nine|a branch line",
            "Caught {a} at dusk and woke up near {b}.|Railway days: {a} in the rain, then {b}."
            "|From my window seat {a} looked slower than {b}.",
        ),
        Voice(
            "interrail|timetable|station|carriage",
            "Interrail, week two|Missed connection|Carriage stories|A stamp a day",
            "a full carriage|the station clock|a missed connection|an old locomotive|the conductor|a paper timetable",
            "Interrail taught me patience: first {a}, then {b}.|Drew {a} while waiting under {b}."
            "|Shared plums with strangers near {a} and talked about {b}.",
        ),
        Voice(
            "island|ferry|beach|snorkel",
            "Island hopping|Last ferry home|Salt on my skin|Quiet lagoon",
            "a white lagoon|the noon ferry|a sandbar|a snorkel mask|the harbour wall|a palm hut",
            "Swam from {a} to {b} before the heat.|Missed {a}, so we slept on the beach beside {b}."
            "|Barefoot all week between {a} and {b}.",
        ),
        Voice(
            "coast|sailing|lighthouse|seaside",
            "Coast road diary|Sails and gulls|Lighthouse loop|Low tide walk",
            "the old lighthouse|a sailing dinghy|the chalk cliffs|a row of bathing huts|low tide|a gull with my lunch",
            "Followed the coast past {a} until we met {b}.|Wind from the west: {a} trembled, {b} did not."
            "|Painted postcards of {a} and one of {b}.",
        ),
        Voice(
            "city break|museum|rooftop|old town",
            "48 hours in Lisbon|Museum morning|Rooftop at six|Old town lanes",
            "a tiled alley|the modern museum|a rooftop terrace|the night market|a tram up the hill|the bishop's square",
            "A city break with one rule: {a} first, {b} last.|Got lost between {a} and {b}, happily."
            "|Skip the queue at {a}; go early to {b} instead.",
        ),
        Voice(
            "urban walk|architecture|bridges|metro",
            "Bridges on foot|Brutalist stroll|End of the metro|Facade hunting",
            "a concrete tower|the iron bridge|an arcade of shops|the metro entrance|a canal towpath|a mosaic facade",
            "Twelve kilometres on foot, from {a} to {b}.|Architecture nerds: {a} deserves a detour, and so does {b}."
            "|Rode out to {a} only to photograph {b}.",
        ),
    ),
)

CRAFTS = Subject(
    "crafts",
    (
        Voice(
            "knitting|wool|needles|jumper",
            "Cable knit, row 40|Wool haul|A sleeve at last|Needles out",
            "a cable jumper|merino wool|the second sleeve|a ribbed hat|circular needles|a moss stitch scarf",
            "Knitting {a} on the sofa, then blocking {b}.|Dropped a stitch in {a} and unravelled {b}."
            "|Cast on {a} tonight with yarn left from {b}.",
        ),
        Voice(
            "crochet|granny square|hook|amigurumi",
            "Granny squares|Hooked on this|Tiny amigurumi|Chain of twelve",
            "a granny square blanket|a fat amigurumi|a bobble cushion|a cotton net bag|a lace doily|the smallest hook",
            "Crochet on the bus: {a} grows, {b} waits.|Chain twelve, turn, and {a} looks like {b}."
            "|Gifted {a} to my aunt, who wanted {b}.",
        ),
        Voice(
            "pottery|clay|glaze|kiln",
            "Fresh from the kiln|Wheel wobbles|Celadon test|Mud on my apron",
            "a celadon bowl|the leaning vase|a test tile|two stoneware plates|a pinch pot|the kiln shelf",
            "Threw {a} on the wheel; centred, unlike {b}.|Glaze day: {a} came out blue and {b} cracked."
            "|Trimmed {a} too thin, so {b} goes in the kiln first.",
        ),
        Voice(
            "ceramics|handbuilding|slip|terracotta",
            "Coils and slip|Terracotta phase|Earthenware joy|Slab built",
            "a coiled jug|a terracotta planter|a slab dish|a slip trailed platter|an earthenware jar|a bisque bead",
            "Built {a} from coils and burnished {b}.|Ceramics class, week three: {a} dries under {b}."
            "|Scratched a pattern into {a} and dipped {b}.",
        ),
        Voice(
            "origami|paper craft|folding|washi",
            "A hundred cranes|Washi evening|Fold, crease, turn|Paper lanterns",
            "a paper crane|a folded lantern|a sheet of washi|a modular ball|an origami fox|a pleated box",
            "Folding {a} needs sharper creases than {b}.|Washi on the table: {a} first, then {b}."
            "|Step nine of {a} defeated me, so I made {b}.",
        ),
        Voice(
            "collage|scrapbook|stamps|journaling",
            "Cut and paste|Scrapbook spread|Stamp carving|Glue stick hour",
            "a collage postcard|a lino stamp|a scrapbook spread|torn magazine scraps|a pocket journal|a glued envelope",
            "Cut up old maps for {a} and stuck them on {b}.|Carved {a} from an eraser to decorate {b}."
            "|My journaling corner: {a}, scissors and {b}.",
        ),
    ),
)

GARDEN = Subject(
    "garden",
    (
        Voice(
            "balcony|containers|railing|herbs",
            "Balcony in May|Herbs by the rail|Two square metres|Potted jungle",
            "a box of basil|the railing planter|mint in a bucket|a strawberry tower|a clump of chives|a dwarf lemon",
            "On my balcony {a} catches the light and {b} the rain.|Container tip: {a} drinks more than {b}."
            "|Moved {a} behind the railing to shelter {b}.",
        ),
        Voice(
            "window box|geranium|city green|trailing",
            "Sill full of green|Geranium season|City green diary|Boxes on a ledge",
            "a red geranium|a trailing ivy|a windy ledge|the lobelia basket|a tray of sedum|a pot of pelargonium",
            "The sill looks alive since {a} joined {b}.|City green for beginners: start with {a}, forget {b}."
            "|Deadheaded {a} at dawn and watered {b}.",
        ),
        Voice(
            "vegetables|allotment|harvest|raised bed",
            "Plot 12, July|Courgette glut|Raised bed plan|First harvest",
            "a courgette glut|the raised bed|a row of carrots|purple kale|knobbly potatoes|broad beans",
            "Harvest from the allotment: {a} and {b}.|Sowed next to {a} where {b} failed last year."
            "|Vegetables on every plate: {a} in June, {b} in autumn.",
        ),
        Voice(
            "kitchen garden|seedlings|compost|mulch",
            "Compost is alive|Pricking out|Seedling parade|Mulch before frost",
            "a tray of seedlings|the compost heap|a cloche of lettuce|leggy tomatoes|a barrow of mulch|rhubarb crowns",
            "Pricked out {a} and tucked {b} under straw.|Turn {a} weekly, then spread it around {b}."
            "|Slugs adore {a}; they ignore {b}.",
        ),
        Voice(
            "houseplants|monstera|repotting|propagation",
            "Repotting day|Monstera unfurls|Cuttings in water|Shelf of ferns",
            "a monstera|the calathea|a string of pearls|a snake plant|cuttings in jars|a thirsty fern",
            "Repotting {a} into chunky bark, with {b} next.|Propagation station: {a} rooted faster than {b}."
            "|Misted {a} and wiped the dust off {b}.",
        ),
        Voice(
            "succulents|cactus|terrarium|indoor green",
            "Cactus collection|Terrarium in a jar|Spiky neighbours|Dry and happy",
            "a barrel cactus|the echeveria|a mossy terrarium|an aloe pup|a lithops pair|a tray of gravel",
            "Water {a} once a month and {b} even less.|Built {a} inside a jar beside {b}."
            "|Spiky but loyal: {a} outlived {b}.",
        ),
    ),
)

FIRST_HALF = (COOKING, TRAVEL, CRAFTS, GARDEN)
