"""Some hundred hostile files; ``tools/fuzz.py`` tries many thousands, with limits of time and memory."""

import warnings

import pytest

from car.pictures.read import decode
from mutants import mutant, originals, survive


def test_the_originals_are_good():
    for name, content in originals().items():
        picture = decode(content, name)
        assert {picture.width, picture.height} == {20, 24}, name


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_hostile_files_are_read_or_refused(first):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoders
        outcomes = {outcome_of(number) for number in range(first, first + 50)}
    assert outcomes == {"done", "refused"}


def outcome_of(number):
    try:
        return survive(number)
    except Exception as error:
        raise AssertionError(f"{mutant(number)[0]}: {type(error).__name__}: {error}") from error
