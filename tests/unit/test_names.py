"""Names that a stranger can read: an action is a verb with its object, a class a noun, a docstring says what it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from forecache.base.settings import PROJECT_ROOT


def words(text: str) -> set[str]:
    return set(text.split())


ROOMS = ("forecache", "assets", "jobs", "resources")
MODULES = [path for room in ROOMS for path in sorted((PROJECT_ROOT / room).rglob("*.py"))]
IRREGULAR = words(
    "told kept seen made known held left shown written drawn sent lost taken given done gone come begun built caught "
    "chosen dealt driven fallen felt forgotten grown heard laid led lent meant met paid put risen said spent spun "
    "stood taught thought thrown torn understood won worn"
)
NOUNS_AND_VERBS = words("need seed feed speed embed bed red shed fed exceed proceed succeed indeed hundred")
PREPOSITIONS = words(
    "of at by in above across after against ahead along among apart around aside before behind below beneath beside "
    "between beyond during except inside into near off onto outside over past since than through toward under until "
    "upon via within what where which whose when why"
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions() -> Iterator[tuple[Path, Definition]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Definition):
                yield path, node


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (word.endswith("ed") and len(word) > 3 and word not in NOUNS_AND_VERBS)


FUNCTIONS = [(path, node.name.strip("_")) for path, node in definitions() if not isinstance(node, ast.ClassDef)]
CLASSES = [(path, node.name.strip("_")) for path, node in definitions() if isinstance(node, ast.ClassDef)]


def places(found: list[tuple[Path, str]]) -> list[str]:
    return [f"{path.relative_to(PROJECT_ROOT)}: {name}" for path, name in found]


def test_a_function_is_no_bare_participle_and_begins_with_no_preposition() -> None:
    participles = [each for each in FUNCTIONS if "_" not in each[1] and is_participle(each[1])]
    assert len(participles) <= 0.01 * len(FUNCTIONS), places(participles)
    prepositions = [each for each in FUNCTIONS if each[1].split("_")[0] in PREPOSITIONS]
    assert len(prepositions) <= 0.01 * len(FUNCTIONS), places(prepositions)


def test_a_class_is_a_noun_and_one_thing() -> None:
    participles = [each for each in CLASSES if is_participle(each[1].lower())]
    assert len(participles) <= 0.01 * len(CLASSES), places(participles)
    modules: dict[str, set[Path]] = {}
    for path, name in CLASSES:
        modules.setdefault(name, set()).add(path)
    several = {name: paths for name, paths in modules.items() if len(paths) > 1}
    assert len(several) <= 0.02 * len(modules), several


def test_a_docstring_begins_with_no_question_word() -> None:
    texts = [(path, text) for path, node in definitions() if (text := ast.get_docstring(node))]
    texts += [(path, text) for path in MODULES if (text := ast.get_docstring(ast.parse(path.read_text())))]
    questions = [(path, text[:80]) for path, text in texts if re.match(r"(What|Where|Which|Whether|How|Why)\b", text)]
    assert len(questions) <= 0.03 * len(texts), places(questions)


def test_few_modules_are_so_small_that_another_one_is_needed_to_understand_them() -> None:
    modules = [path for path in MODULES if path.name != "__init__.py"]
    small = [(path, "") for path in modules if path.read_text().count("\n") < 50]
    assert len(small) <= 0.08 * len(modules), places(small)
