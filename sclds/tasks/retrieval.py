"""Retrieval: every image of a group ranks the captions of the group, its own the right one; beside it, `contrastive`.

Published is one true caption beside 15 false ones for each image (`batch.group_size: 16`), and a head that starts as
the matching head's row for a match. The false captions are those of the group, so that nothing is encoded twice.
What is measured is retrieval itself (`sclds.evaluation.retrieval`).
"""

from sclds.tasks.definition import Task

RETRIEVAL = Task("retrieval", "Caption ranking", loss="one_of", reads_captions=True)
