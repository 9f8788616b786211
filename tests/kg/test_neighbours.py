from __future__ import annotations

from knowsub.kg.build import facts_sharing_words, neighborhood_facts
from tests.kg.setting import fact

TARGET = [fact("hut", "house"), fact("igloo", "house"), fact("house", "building")]
TAIL = [fact("villa", "house"), fact("cabin", "house"), fact("tower", "building")]
HEAD = fact("yurt", "hut")
SAME_HEAD = fact("hut", "shelter")
OTHER = fact("hut ring", "settlement")
APART = fact("aria", "song")
POOL = [APART, OTHER, SAME_HEAD, HEAD, *TAIL]


def test_facts_of_the_same_tail_come_first_and_evenly() -> None:
    near = neighborhood_facts(TARGET, POOL, 9, unique_heads=False)
    assert near[:3] == (TAIL[2], TAIL[0], TAIL[1])
    assert near[3:] == (HEAD, SAME_HEAD, OTHER)


def test_heads_of_the_target_can_be_kept_out() -> None:
    assert SAME_HEAD not in neighborhood_facts(TARGET, POOL, 9, unique_heads=True)


def test_no_more_than_asked_for() -> None:
    assert neighborhood_facts(TARGET, POOL, 2, unique_heads=True) == (TAIL[2], TAIL[0])
    assert neighborhood_facts(TARGET, POOL, 0, unique_heads=True) == ()


def test_facts_that_share_no_word_are_not_near() -> None:
    assert facts_sharing_words(TARGET, POOL) == POOL[1:]
