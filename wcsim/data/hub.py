"""Datasets on the Hugging Face Hub, fetched once into its own cache."""

from __future__ import annotations

from pathlib import Path

from wcsim.data.packages import package
from wcsim.errors import DataError


def fetch(name: str) -> Path:
    """The folder of a dataset by `repo_id@revision`.

    DataError where it can neither be reached nor is in the cache; it says what to fetch.
    """
    repo, _, revision = name.partition("@")
    hub = package("huggingface_hub")
    try:
        return Path(hub.snapshot_download(repo, repo_type="dataset", revision=revision))
    except Exception as error:  # of the Hub's client, of requests or of httpx: they share no base
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"dataset {repo} at revision {revision} is not to be had ({type(error).__name__}: "
                        f"{why}); fetch https://huggingface.co/datasets/{repo}/tree/{revision} with "
                        f"`hf download --repo-type dataset {repo} --revision {revision}` and give its folder"
                        ) from error
