from __future__ import annotations

import pytest

from evalkit.episode import Episode


def test_an_episode_survives_a_round_trip_and_has_a_readable_id() -> None:
    episode = Episode("libero", "object", "pick_up_the_soup", 3, 7, 1)
    assert Episode.from_dict(episode.to_dict()) == episode
    assert episode.id == "libero/object/pick_up_the_soup/3/s7/r1"


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="scene must be 0 or more"):
        Episode("libero", "object", "t", -1, 7)
    with pytest.raises(TypeError):
        Episode.from_dict({"suite": "libero", "colour": "red"})
