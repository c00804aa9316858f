"""Files of prompts, and the folders of their pictures: what a batch job shares, however it runs."""

from fam_runtime.batch.index import INDEX_NAME, IndexEntry, write_index
from fam_runtime.batch.picture_folder import make_or_keep
from fam_runtime.batch.prompt_file import PromptLine, read_prompts

__all__ = [
    "INDEX_NAME",
    "IndexEntry",
    "PromptLine",
    "make_or_keep",
    "read_prompts",
    "write_index",
]
