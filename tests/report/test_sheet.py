"""The contact sheet of the world bench."""

import numpy as np

from wcsim.report.sheet import by_rank, contact_sheet


def test_episodes_are_picked_by_rank_and_not_by_order():
    assert by_rank(np.array([5.0, 1.0, 9.0, 3.0, np.inf]), (0.0, 0.5, 1.0)) == [1, 0, 4]


def test_a_sheet_holds_a_pair_of_rows_per_episode_and_a_column_per_horizon():
    truth, imagined = (np.tile(np.array(colour, np.uint8), (2, 3, 8, 8, 1)) for colour in ((9, 0, 0), (0, 9, 0)))
    sheet = contact_sheet(truth, imagined, (1, 2, 4), ("good", "bad"))
    assert sheet.dtype == np.uint8
    for colour in ((9, 0, 0), (0, 9, 0)):
        assert (sheet == colour).all(-1).sum() == 2 * 3 * 16 * 16
