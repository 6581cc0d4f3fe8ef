"""Captions out of titles, file names, descriptions and keywords, and the concept that a caption is about.

The openclipart collection is named by hundreds of people: titles of a whole series ("Lemon SVG theme"), camelCase,
numbers, e-mail addresses, Perl debris ("HASH(0x85a831c)"), Italian and French. What is cleaned here was found by
reading the list of all titles and keywords by frequency.
"""

import html
import re
import unicodedata

MAX_WORDS = 24
"""Longest caption in words; the tail of a caption is keywords, so cutting loses the least telling ones."""
_MAX_DESCRIPTION_WORDS = 14
_MAX_KEYWORDS = 5

# Titles that name a series, an author's upload or nothing: the file name then says more.
_SERIES = re.compile(
    r"^(clipart by|part of the|various clipart|lemon svg|etiquette icons|svg (road signs|gradient)|aiga_symbol|"
    r"gold-theme|blueberry - iconset|plastik-icon|r16 s|advertising|homes clipart|map symbols|simple arrows|"
    r"balloons-aj|card$|people$|chess pieces|pc connectors|australian maps|untitled|no title|test)",
    re.I,
)
_DEBRIS = re.compile(
    r"hash\(?0x[0-9a-f]+\)?|0x[0-9a-f]{5,}|\S+@\S+|(https?://|www\.)\S+|\[.*?\]|"
    r"\b(video ?art|cliparts|openclipart|svg|png|rpg map elements|aiga|gnome|bwh|md|aj|ganson|icons?|stock|mime)\b|"
    r"\b(inkpen style|etiquette)\b",
    re.I,
)
_BOILERPLATE = frozenset(
    "hash computer geometry icons icon magick theme action sign symbol application shape shapes card unsorted "
    "mapsym signs_and_symbols united_nations_member subnational people filesystem recreation work miscellany special "
    "lemon_theme_icon appicon networksym mime-types mimetypes openclipart signs stock menu animals symbols buttons "
    "organizations patterns examples map_symbol weathersym musicsym musicstuff arrowshape tools activities day "
    "action simple 11 noze flags logos desserts games decorations vehicles device transport".split()
)
# Foreign words of the frequent titles; the rest of a foreign title stays, its category still speaks English.
_GLOSSARY = dict(
    pair.split("=")
    for pair in (
        "acquila=eagle aquila=eagle cavallo=horse orso=bear gatto=cat nero=black nera=black tigre=tiger "
        "dino=dinosaur dinosauro=dinosaur cigno=swan cigni=swans anatra=duck pinguino=penguin "
        "cammello=camel gallina=hen pesce=fish lucertola=lizard formichina=ant mostriciattolo=monster "
        "libellule=dragonfly farfalla=butterfly ape=bee cane=dog coniglio=rabbit elefante=elephant "
        "leone=lion lupo=wolf mucca=cow pecora=sheep topo=mouse uccello=bird gabbiano=seagull toro=bull "
        "rosa=rose fiore=flower fiori=flowers albero=tree foglia=leaf foglie=leaves verdi=green "
        "arancioni=orange rosso=red rossa=red verde=green blu=blue giallo=yellow gialla=yellow bianco=white "
        "bianchi=white grigi=gray grigia=gray viola=violet mela=apple pera=pear prugna=plum limone=lemon "
        "arancia=orange pannocchia=corn gran= turco= pomodoro=tomato ciliegia=cherry uva=grapes "
        "fragola=strawberry carota=carrot formaggio=cheese pane=bread tramezzino=sandwich "
        "cornetto=croissant bottiglia=bottle bicchiere=glass tazza=cup casa=house grattacieli=skyscrapers "
        "ambulanza=ambulance macchina=car treno=train nave=ship aereo=airplane barca=boat "
        "bicicletta=bicycle orologio=clock parete=wall sega=saw legno=wood martello=hammer chiave=wrench "
        "cacciavite=screwdriver utensili=tools pennello=paintbrush pittura=painting con=with "
        "tavolozza=palette pinzatrice=stapler puntine=thumbtacks forbici=scissors carta=paper "
        "cestino=basket vuoto=empty pieno=full cartella=folder libro=book penna=pen matita=pencil "
        "lampada=lamp lampadina=lightbulb tenda=tent campeggio=camping zaino=backpack borsetta=handbag "
        "portafoglio=wallet serratura=lock ragazza=girl ragazzo=boy donna=woman uomo=man "
        "principessa=princess signorina=lady seduta=sitting piedi=standing corridore=runner "
        "palloncini=balloons proiettore=projector provetta=test-tube tasto=key pulsante=button di=of da=of "
        "del=of della=of dei=of la=the il=the le=the lo=the et=and au=with nuage=cloud glace=ice-cream "
        "couronne=crown ours=bear chat=cat chien=dog gauffre=waffle croche=note sortie=exit "
        "secours=emergency issue=exit echelle=ladder comburant=oxidizing corrosif=corrosive danger=danger "
        "radiations=radiation ionisantes=ionizing protection=protection obligatoire=mandatory mains=hands "
        "ouie=ears direction=direction suivre=follow douche=shower securite=safety dente=tooth "
        "baloon=balloon autos=cars ruota=wheel natale=christmas babbo=santa tacchino=turkey schermo=screen "
        "disco=disk rigido=hard salvagente=lifebuoy olifant=elephant bn= saphire=sapphire "
        "vegitable=vegetable jin-jang=yin-yang mrt= bw=black-and-white contour=outline"
    ).split()
)
_STYLE = frozenset(
    "a an the of with and in on for style simple outline silhouette color colour shape black-and-white "
    "tone skin light medium dark medium-light medium-dark red green blue yellow orange purple violet "
    "pink brown black white gray grey beige gold golden silver man men woman women person people boy "
    "girl male female hair curly bald blond beard small big large little old new another half "
    "alternative round left right up down facing ornamental bordered view cute funny cartoon flag".split()
)


def plain_words(text: str) -> str:
    """Return text lower-case on one line: NFKC, camelCase and underscores split, debris and doubled spaces gone."""
    text = unicodedata.normalize("NFKC", html.unescape(text)).replace("’", "'")
    text = re.sub(r"\((b and w|bw|b/w)\)", " black-and-white ", text, flags=re.I)
    text = _DEBRIS.sub(" ", text.replace("_", " "))
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text).lower()
    text = re.sub(r"(?<=[a-z])(?=\d)", " ", text)
    text = re.sub(r"[^\w\s,'&:/%+-]|_", " ", text)
    words = (_GLOSSARY.get(w, w) for w in text.split())
    return re.sub(r"\s+", " ", " ".join(w for w in words if w)).strip(" ,:/-+&'")


def openclipart_title(title: str, stem: str, author: str) -> str:
    """Return what the image is called: its title, or its file name where the title only names a series.

    Args:
        title: The title in the SVG's metadata; may be empty.
        stem: File name without its ending; often ends in the author's name, cut off.
        author: The author in the SVG's metadata; may be empty.
    """
    text = "" if _SERIES.search(title.strip()) else plain_words(title)
    text = _without_numbers(text)
    if not re.search(r"[^\W\d]{3}", text):
        text = _without_numbers(plain_words(_stem_without_author(stem, author)))
    return text


def _without_numbers(text: str) -> str:
    return " ".join(w for w in text.split() if not re.fullmatch(r"[#-]?\d+[a-z]?|[ivx]+|-|&|[a-z]", w)).strip(
        " ,:/-+&'"
    )


def _stem_without_author(stem: str, author: str) -> str:
    """Cut the author's name, which the collection appends to a file name and cuts at 24 characters."""
    stem = re.sub(r"_+(\d+[a-z]?|[a-z]\d?)?$", "", stem)
    name = re.sub(r"[^a-z0-9]+", "_", author.lower()).strip("_")
    parts = stem.split("_")
    for i in range(1, len(parts)):
        tail = re.sub(r"[^a-z0-9]+", "_", "_".join(parts[i:]).lower()).strip("_")
        if len(tail) >= 3 and name.startswith(tail):
            return "_".join(parts[:i])
    return stem


def described(title: str, description: str, extra: list[str]) -> str:
    """Return "title, description, keywords" without repeating a word, at most MAX_WORDS words.

    Args:
        title: Clean title, never empty.
        description: The author's own sentence; used if it is short.
        extra: Keywords and category, most telling first; boilerplate is dropped.
    """
    parts = [title]
    sentence = plain_words(description)
    if not re.search(r"\w\.\w|@|part of|converted|this was|worlds? ", description) and (
        2 <= len(sentence.split()) <= _MAX_DESCRIPTION_WORDS and _new_words(sentence, parts)
    ):
        parts.append(sentence)
    kept = 0
    for keyword in extra:
        if keyword.lower() in _BOILERPLATE or kept == _MAX_KEYWORDS or "architetto" in keyword.lower():
            continue
        word = plain_words(keyword)
        if re.search(r"[^\W\d]{2}", word) and _new_words(word, parts):
            parts.append(word)
            kept += 1
    return " ".join(", ".join(parts).split()[:MAX_WORDS]).strip(" ,")


def _new_words(text: str, parts: list[str]) -> bool:
    said = {singular(w) for w in re.findall(r"\w+", " ".join(parts))}
    return bool({singular(w) for w in re.findall(r"\w+", text)} - said)


def singular(word: str) -> str:
    """Return the word without a plural s; rough, for comparing only."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def concept_of(title: str) -> str:
    """Return what a title is about, the same for its variants of style, colour, number, skin tone and gender.

    "woman firefighter with medium skin tone" and "man firefighter" are both "firefighter".
    """
    title = title.split(":")[0] if title.startswith(("family", "kiss", "couple")) else title
    words = {singular(w) for w in re.findall(r"\w+", title) if w not in _STYLE and not w.isdigit()}
    return " ".join(sorted(words)) or " ".join(sorted(set(re.findall(r"\w+", title)))) or title
