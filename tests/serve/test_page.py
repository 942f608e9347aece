"""The page in a real browser: it drives, undoes, records, and says nothing on the console.  Slow."""

from __future__ import annotations

import shutil
from zipfile import ZipFile

import imageio.v2 as imageio
import numpy as np
import pytest

from served import served
from wcsim.data.recordings import open_recordings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:cache .* skipped nothing"),
              pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

READY = "#play:not([disabled])"


@pytest.fixture(scope="module")
def browser():
    """Playwright is no part of the development extra: with it, `pip install playwright`."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    with served("pusht-96") as (address, service):
        yield address.replace("ws://", "http://"), service


@pytest.fixture
def page(browser, address, request):
    """The page, at the width and in the colours of the test's parameter."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address[0]}/?seed=7&steps=8")
    page.wait_for_selector(READY, timeout=60_000)
    yield page
    assert said == []
    context.close()


def said(page, what):
    page.locator("#said").filter(has_text=what).wait_for(timeout=60_000)


def rested(page):
    """The step that was under way has ended."""
    page.locator("#places[aria-busy=false]").wait_for(timeout=60_000)


def agent(page):
    """Where the world's agent is, by the picture on the page: the mean of what is blue, in shares of its sides."""
    picture = np.asarray(imageio.imread(page.locator("#canvas-cached").screenshot()), np.int64)
    blue = (picture[..., 2] > 200) & (picture[..., 0] < 140) & (picture[..., 1] < 160)
    assert blue.any()
    return np.argwhere(blue).mean(0)[::-1] / picture.shape[1::-1]


def test_the_agent_follows_the_pointer_and_undo_goes_back(page):
    before = agent(page)
    goal = np.array([0.15, 0.15]) if before.sum() > 1 else np.array([0.85, 0.15])
    box = page.locator("#canvas-cached").bounding_box()
    page.mouse.move(box["x"] + box["width"] * goal[0], box["y"] + box["height"] * goal[1])
    page.mouse.down()
    said(page, "step 6")
    page.mouse.up()
    rested(page)
    after = agent(page)
    assert np.linalg.norm(after - goal) < 0.5 * np.linalg.norm(before - goal)
    steps = int(page.locator("#said").inner_text().split()[1])
    for undone in range(1, 4):
        page.keyboard.press("u")
        said(page, f"step {steps - undone}, undone")
    page.keyboard.press("r")
    said(page, "at the start")
    assert np.linalg.norm(agent(page) - before) < 0.02


def test_keys_step_and_play(page):
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    said(page, "step 1")
    page.keyboard.press(" ")
    said(page, "step 3")
    page.keyboard.press(" ")
    rested(page)
    assert page.locator("#play").inner_text() == "Play"


def test_what_was_driven_is_saved(page, tmp_path):
    for step in range(1, 4):
        page.click("#step")
        said(page, f"step {step}")
    page.keyboard.press("u")
    said(page, "step 2, undone")
    downloads = []
    page.on("download", lambda download: downloads.append(download))
    page.click("#save")
    said(page, "saved")
    page.wait_for_timeout(500)
    names = {download.suggested_filename for download in downloads}
    assert names == {"pusht-96-seed7.mp4", "pusht-96-seed7.npz"}
    for download in downloads:
        download.save_as(tmp_path / download.suggested_filename)
    with np.load(tmp_path / "pusht-96-seed7.npz") as arrays:
        assert arrays["actions"].shape == (2, 2)
        assert all(arrays[f"frames_{name}"].shape == (3, 96, 96, 3) for name in ("cached", "uncached", "truth"))
    assert (tmp_path / "pusht-96-seed7.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_policy_takes_over_and_what_was_driven_is_a_dataset(page, tmp_path):
    page.select_option("#driver", "expert")
    said(page, "step 2")
    page.click("#play")
    rested(page)
    page.locator("#canvas-cached").click()  # a hand takes over
    rested(page)
    assert page.locator("#driver").input_value() == ""
    steps = int(page.locator("#said").inner_text().split()[1])
    page.fill("#name", "mine")
    page.select_option("#of", "truth")
    page.click("#record")
    link = page.locator("#recorded a").first
    link.wait_for(timeout=60_000)
    with page.expect_download() as waiting:
        link.click()
    waiting.value.save_as(tmp_path / "mine.zip")
    ZipFile(tmp_path / "mine.zip").extractall(tmp_path)
    recordings = open_recordings(tmp_path / "mine")
    assert [row.frames for row in recordings.episodes] == [steps + 1]
    assert recordings.frames(0, "pixels", [0, steps]).shape == (2, 96, 96, 3)


def test_another_cache_and_one_place_alone(page, address):
    page.select_option("#cache", "worldcache")
    page.uncheck("#uncached")
    page.uncheck("#truth")
    page.click("#start")
    page.locator("#canvas-truth").wait_for(state="detached")
    page.wait_for_selector(READY)
    assert page.locator("#places figure").count() == 1
    assert "cache=worldcache" in page.url
    page.click("#step")
    said(page, "step 1")
    assert address[1].meter.sessions == 1


def test_the_cache_is_changed_while_driving(page):
    page.click("#step")
    said(page, "step 1")
    page.select_option("#cache", "worldcache")
    said(page, "from here on 8 steps, cache worldcache")
    assert "cache=worldcache" in page.url
    page.click("#step")
    said(page, "step 2")


def test_futures_are_branches_and_one_of_them_is_taken(page, address):
    page.select_option("#count", "4")
    page.select_option("#ahead", "4")
    page.click("#branch")
    page.locator(".future:not([disabled])").nth(3).wait_for(timeout=120_000)
    assert page.locator(".future").count() == 4
    pictures = {page.locator(".future canvas").nth(n).screenshot() for n in range(4)}
    assert len(pictures) > 1
    ahead = np.asarray(imageio.imread(page.locator(".future canvas").nth(2).screenshot()), np.int64)
    page.locator(".future").nth(2).click()
    said(page, "step 4")
    rested(page)
    assert page.locator(".future").count() == 0
    assert address[1].meter.sessions == 3  # the branches are closed
    page.keyboard.press("b")
    page.locator(".future").first.wait_for()
    there = np.asarray(imageio.imread(page.locator("#canvas-cached").screenshot()), np.int64)
    assert np.abs(ahead.mean((0, 1)) - there.mean((0, 1))).max() < 6  # the same picture, but for the mark


GAMEPAD = """
window.pad = { axes: [0, 0, 0, 0], buttons: Array.from({ length: 16 }, () => ({ pressed: false })) };
navigator.getGamepads = () => [window.pad];
"""


def test_a_gamepad_drives(page):
    page.evaluate(GAMEPAD + "dispatchEvent(new Event('gamepadconnected')); pad.axes[0] = 1")
    said(page, "step 2")
    page.evaluate("pad.axes[0] = 0; pad.buttons[1].pressed = true")
    said(page, "undone")


def test_an_address_opens_the_same_start(page, browser, address):
    page.fill("#seed", "11")
    page.uncheck("#uncached")
    page.click("#start")
    page.locator("#canvas-uncached").wait_for(state="detached")
    page.wait_for_selector(READY)
    other = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    other.goto(page.url)
    other.wait_for_selector(READY, timeout=60_000)
    assert other.locator("#places figure").count() == 2
    assert other.locator("#canvas-cached").screenshot() == page.locator("#canvas-cached").screenshot()
    other.context.close()


@pytest.mark.parametrize("page", [(1280, "dark"), (390, "light"), (390, "dark")], indirect=True)
def test_it_fits_narrow_and_wide(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("play", "step", "undo", "reset", "save", "start", "share", "branch", "record"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["height"] >= 36
        assert box["x"] + box["width"] <= page.viewport_size["width"]
