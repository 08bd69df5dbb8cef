"""What the documentation points at is there: links, headings, packages, files and names."""
import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), ROOT / 'scripts/gpu/README.md',
         ROOT / 'specvla_ros/checkpoints/README.md']
MAP = ROOT / 'docs' / 'code_map.md'


def text_of(page):
    """Return a page without its blocks of code."""
    return re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r'^#+ (.+)$', text_of(page), re.MULTILINE):
        yield re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def links(text):
    """Yield the targets of the links and pictures of a page, but for those into the web."""
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith(('http://', 'https://')):
            yield target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in links(text_of(page)):
        path, _, anchor = target.partition('#')
        file = page.parent / path if path else page
        assert file.exists(), f'{page.name}: {target}'
        assert not anchor or anchor in anchors(file), f'{page.name}: {target}'


@pytest.mark.parametrize('target', ['gone.md', 'README.md#gone', '#gone'])
def test_a_link_that_leads_nowhere_is_found(tmp_path, target):
    page = tmp_path / 'README.md'
    page.write_text(f'# Here\n[there]({target})\n')
    with pytest.raises(AssertionError, match=target):
        test_every_link_leads_somewhere(page)


def packages(root):
    """Return the folders that hold Python files, as the map writes them."""
    folders = {path.parent for path in (root / 'specvla_ros').rglob('*.py')}
    return {f'{folder.relative_to(root).as_posix()}/' for folder in folders}


def test_the_map_has_one_line_for_each_package_and_no_other():
    rows = re.findall(r'^\| `(specvla_ros/[^`]*)` \|', MAP.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == packages(ROOT)


def test_names_beside_a_file_of_the_map_are_in_it():
    found = re.findall(r'\]\(\.\./(specvla_ros/[\w/]+\.py)\), `([\w.]+)` \|', MAP.read_text())
    assert len(found) > 5
    for path, name in found:
        body = ast.parse((ROOT / path).read_text()).body
        for part in name.split('.'):
            match, = (node for node in body if getattr(node, 'name', None) == part
                      or isinstance(node, ast.AnnAssign) and node.target.id == part)
            body = getattr(match, 'body', [])


def test_the_newcomers_page_is_short_and_says_what_a_bin_is_before_it_counts_them():
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert len(lines) <= 100
    said = next(number for number, line in enumerate(lines) if '**bins**' in line)
    counted = next(number for number, line in enumerate(lines) if '`ar`' in line and '|' in line)
    assert said < counted


# Public classes that share a name, and why that misleads no reader.
SAME_NAME: dict[str, str] = {
}


def public_classes(sources):
    """Return the names of public classes, with the paths that define each, of (path, text)."""
    places = {}
    for path, text in sources:
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places.setdefault(node.name, []).append(path)
    return places


def test_one_word_one_meaning_no_two_public_classes_share_a_name():
    sources = ((str(path.relative_to(ROOT)), path.read_text())
               for path in sorted((ROOT / 'specvla_ros').rglob('*.py')))
    shared = {name: paths for name, paths in public_classes(sources).items() if len(paths) > 1}
    for name in SAME_NAME:
        shared.pop(name, None)
    assert not shared, f'rename all but one, or say in SAME_NAME why not: {shared}'


def test_classes_of_one_name_are_found():
    text = 'class Plan: pass\nclass _Own: pass\ndef f():\n    class Inner: pass\n'
    assert public_classes([('a.py', text), ('b.py', text)]) == {'Plan': ['a.py', 'b.py']}


SOURCES = [path for folder in ('specvla_ros', 'scripts', 'launch', 'test')
           for path in sorted((ROOT / folder).rglob('*.py'))]


def undocumented(source, longest=40):
    """Return functions and classes of more lines than that which have no docstring."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)
            and node.end_lineno - node.lineno >= longest and not ast.get_docstring(node)]


def test_whatever_is_long_has_a_docstring():
    long = {str(path.relative_to(ROOT)): names for path in SOURCES
            if (names := undocumented(path.read_text()))}
    assert not long, f'write what each is for, or make it shorter: {long}'


def test_long_ones_without_a_docstring_are_found():
    body = '    x = 1\n' * 40
    assert undocumented(f'def f():\n{body}') == ['f']
    assert undocumented(f'class C:\n{body}') == ['C']
    assert undocumented(f'def f():\n    "Says why."\n{body}') == []
    assert undocumented('def f():\n    pass\n') == []
