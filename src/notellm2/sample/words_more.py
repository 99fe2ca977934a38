"""The sample's vocabulary, second half: pets, sport, home and music. See `sample_words` for how it is meant."""

from __future__ import annotations

from notellm2.sample.words import FIRST_HALF, Subject, Voice

PETS = Subject(
    "pets",
    (
        Voice(
            "dog|puppy|fetch|leash",
            "Puppy, week three|Muddy paws|Fetch champion|Who is a good boy",
            "a beagle puppy|the tennis ball|a muddy leash|the neighbour's terrier|a chewed slipper|a sleepy hound",
            "My dog dragged me past {a} and straight to {b}.|Fetch, forty times, with {a} here and {b} there."
            "|Puppy school taught us about {a}, not about {b}.",
        ),
        Voice(
            "rescue|retriever|obedience|kennel",
            "Rescue update|Sit, stay, wait|Recall training|Kennel to couch",
            "a shy retriever|the agility tunnel|a liver treat|the foster collie|a clicker|an old greyhound",
            "Obedience class today: {a}, a biscuit, {b}.|The kennel smelled of soap; I remember {a} and {b}."
            "|Recall works with {a}, but never around {b}.",
        ),
        Voice(
            "budgie|aviary|feathers|perch",
            "Budgie gossip|Morning chirps|Feather report|New perch day",
            "a blue budgie|the seed bell|a swinging perch|two cockatiels|the aviary door|a moulting canary",
            "Chirping since six, all because of {a} and {b}.|Hung {a} low so that {b} can reach it."
            "|Feathers everywhere since I moved {a} next to {b}.",
        ),
        Voice(
            "parrot|birdwatching|feeder|nest box",
            "Parrot says hello|Feeder visitors|Nest box camera|Beaks and berries",
            "a grey parrot|the peanut feeder|a robin|a family of wrens|the nest box|a cheeky magpie",
            "Counted {a} at the window, and later {b}.|Birdwatching from bed, {a} to the left, {b} to the right."
            "|Poured out seeds and waited: first {a}, within minutes {b}.",
        ),
        Voice(
            "rabbit|bunny|hay|hutch",
            "Bunny binkies|Hay day|Hutch makeover|Lop ears up",
            "a lop eared bunny|fresh hay|the wooden hutch|a cardboard tunnel|a dandelion snack|two bonded rabbits",
            "The rabbit ignored {a} and flopped beside {b}.|Hutch makeover: {a} downstairs, {b} above."
            "|Binkies at dusk, then {a}, then {b}.",
        ),
        Voice(
            "guinea pig|hamster|rodent|burrow",
            "Guinea pig choir|Hamster highway|Burrow season|Squeak for lunch",
            "a ginger guinea pig|the hamster wheel|a burrow of shavings|a cuddle sack|a cucumber slice|three gerbils",
            "Squeaks at noon are about {a} or about {b}.|Cleaned the cage, then arranged {a} near {b}."
            "|Rodent logic: hide {a} inside {b}.",
        ),
    ),
)

SPORT = Subject(
    "sport",
    (
        Voice(
            "running|marathon|tempo|intervals",
            "Long run, 28 k|Tempo Tuesday|Taper nerves|Race day bib",
            "a tempo run|the marathon plan|hill intervals|a recovery jog|the track session|my race bib",
            "Running log: {a} first, a stretch, then {b}.|Legs are gone from {a}, and tomorrow brings {b}."
            "|Negative split at last; credit to {a} and {b}.",
        ),
        Voice(
            "jogging|parkrun|trainers|couch to 5k",
            "Couch to 5k, day 1|Parkrun debut|New trainers|Easy pace club",
            "a gentle parkrun|new trainers|the lap of the lake|a side stitch|an easy five|the buggy joggers",
            "Out of breath but proud after {a} and {b}.|Joined {a} with my sister and chatted about {b}."
            "|No watch, no pace, only {a} and {b}.",
        ),
        Voice(
            "climbing|bouldering|crag|chalk",
            "Sent the slab|Chalk and tape|Crux at last|Crag weekend",
            "a slabby boulder|the crux hold|a heel hook|the overhang|a chalk bag|the granite crag",
            "Climbing before work: {a} gave way to {b}.|Fell off {a} nine times, then flashed {b}."
            "|Taped fingers, {a}, a long rest and {b}.",
        ),
        Voice(
            "belay|rope|multi pitch|harness",
            "Four pitches up|Trust your belay|Rope drag|Top out in wind",
            "a double rope|the hanging belay|a rusty bolt|the abseil|a borrowed harness|the chimney pitch",
            "Led {a} while my partner cursed {b}.|Checked {a} twice before weighting {b}."
            "|Vertical all morning: {a}, a ledge, {b}.",
        ),
        Voice(
            "cycling|gravel|peloton|saddle",
            "Gravel century|Saddle sore|Sprint for the sign|Chain and cassette",
            "a gravel loop|the paceline|a rattling cassette|the hors categorie climb|a puncture|a new saddle",
            "Cycling notes: {a} hurt, {b} did not.|Dropped by the group on {a}, back on for {b}."
            "|Tailwind through {a}, headwind at {b}.",
        ),
        Voice(
            "bike commute|pedal|bikepacking|velo",
            "Pedal to work|Panniers packed|Bikepacking light|Velo errands",
            "a cargo bike|the towpath shortcut|a wet pannier|the frame bag|a squeaky brake|the bell",
            "Pedalled past the jam with {a} and {b}.|Bikepacking list: {a}, a stove, {b}."
            "|Day forty of my commute: fixed {a}, lost {b}.",
        ),
    ),
)

HOME = Subject(
    "home",
    (
        Voice(
            "shelves|declutter|storage|tidy",
            "Shelfie|Ten minute tidy|Drawer therapy|Less is calmer",
            "a floating shelf|the junk drawer|labelled baskets|a peg rail|the linen cupboard|three donation bags",
            "Tidy rule: {a} before coffee, {b} after.|Decluttered {a} and found room for {b}."
            "|Storage that works: {a} by the door, {b} above.",
        ),
        Voice(
            "minimalism|organising|wardrobe|small flat",
            "Small flat, big calm|Wardrobe reset|Everything folded|One in, one out",
            "a capsule wardrobe|the narrow hallway|a folding desk|vacuum bags|the bare mantelpiece|an under bed box",
            "Living in 30 square metres: turn {a} into {b}.|Organising {a} took longer than {b}."
            "|Minimalism for me is {a} without {b}.",
        ),
        Voice(
            "lamp|lighting|cosy|dimmer",
            "One good lamp|Cosy corner|Dimmer is better|Warm white only",
            "a mushroom lamp|the paper shade|a brass sconce|fairy lights|the reading nook|a dimmer switch",
            "Lighting changes everything: {a} softened {b}.|Swapped the ceiling bulb for {a} and kept {b}."
            "|Evenings are cosy with {a} glowing over {b}.",
        ),
        Voice(
            "hygge|candles|textiles|blanket",
            "Hygge hour|Linen and candles|Blanket weather|Layers of texture",
            "a waxed candle|the chunky blanket|linen curtains|a sheepskin|velvet cushions|a woven rug",
            "Hygge is {a} after dinner and {b} all day.|Layered {a} over the sofa next to {b}."
            "|Washed {a} at thirty degrees; {b} survived too.",
        ),
        Voice(
            "renovation|paint|diy|plaster",
            "Painting the hall|DIY day five|Plaster dust|Before the primer",
            "a coat of primer|the hallway plaster|a pot of emulsion|skirting boards|masking tape|the sanding block",
            "Renovation, day five: done with {a}, stuck on {b}.|Painted past midnight; be patient with {a} and {b}."
            "|Ruined {a} with a roller and rescued {b}.",
        ),
        Voice(
            "upcycling|furniture|woodwork|flea market",
            "Flea market find|Chair, revived|Oil and beeswax|Dovetail attempt",
            "a bentwood chair|the pine dresser|a teak sideboard|a dovetail joint|an orphaned stool|beeswax polish",
            "Brought home {a} from the flea market, plus {b}.|Upcycling {a} with hinges off {b}."
            "|Stripped the varnish from {a}; {b} comes next.",
        ),
    ),
)

MUSIC = Subject(
    "music",
    (
        Voice(
            "guitar|chords|strings|fingerstyle",
            "Three chord song|New strings|Fingerstyle study|Capo on two",
            "a nylon guitar|the F chord|a capo riff|fresh strings|an open tuning|the blues scale",
            "Guitar at midnight: {a}, softly, then {b}.|Practised {a} until {b} stopped buzzing."
            "|Strumming along, I swapped {a} for {b}.",
        ),
        Voice(
            "ukulele|bass|pedalboard|jam",
            "Garage jam|Ukulele Sunday|Bass line stuck|Pedalboard puzzle",
            "a fretless bass|the fuzz pedal|a concert ukulele|the loop station|a valve amp|our drummer",
            "Jam in the garage: {a} was too loud for {b}.|Plugged {a} straight into {b}."
            "|Four bars of {a}, eight bars of {b}, repeat.",
        ),
        Voice(
            "choir|singing|alto|rehearsal",
            "Alto section|Choir tonight|Warm up scales|Encore in Latin",
            "a Latin motet|the alto line|a gospel encore|the warm up scales|an awkward entry|the Christmas concert",
            "Singing {a} by heart, humming {b} on the way.|Rehearsal ran late because {a} clashed with {b}."
            "|Our choir finally tamed {a} and {b}.",
        ),
        Voice(
            "vocals|karaoke|harmony|microphone",
            "Karaoke courage|Two part harmony|Voice memo 14|Mic check",
            "a power ballad|the high harmony|a cheap microphone|a duet|my voice memo|the key change",
            "Vocals done: {a} in one take, {b} in thirty.|Karaoke night, so I ruined {a} and survived {b}."
            "|Breathe low before {a}, smile through {b}.",
        ),
        Voice(
            "vinyl|turntable|records|crate digging",
            "Crate digging|Side B first|Needle drop|Dusty sleeves",
            "a soul LP|the turntable belt|a dusty sleeve|a Japanese pressing|a 45 single|the listening chair",
            "Vinyl haul: {a} for two coins, {b} for ten.|Dropped the needle on {a}, then flipped to {b}."
            "|Records are patient; {a} waited decades beside {b}.",
        ),
        Voice(
            "synth|beats|home studio|mixtape",
            "Bedroom beats|Synth patch notes|Mixtape no. 6|Sampling the rain",
            "a modular patch|the drum machine|a lofi beat|a rain sample|the sequencer|a tape delay",
            "Home studio log: {a} pulses underneath {b}.|Sampled {a} and pitched it below {b}."
            "|Arpeggios all night with {a} and {b}.",
        ),
    ),
)

SUBJECTS = (*FIRST_HALF, PETS, SPORT, HOME, MUSIC)
"""Every subject; 8 categories, 24 sub-interests, 48 voices."""
