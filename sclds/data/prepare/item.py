"""One captioned image or video on its way into the embedded shards."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What is known of a sample before it is encoded.

    Attributes:
        key: Unique over all shards, ASCII, without a dot.
        caption: Lower-case English text.
        concept: What it is about; variants of one concept share it.
        title: The name that the caption starts with.
        source: Package that it comes from.
        licence: SPDX identifier, or "public domain".
        variant: Whether it is a skin tone of another item (thinned out first when space is short).
        same_as: Further identity that joins items of several sources, such as an emoji's code points; may be empty.
        holdable: Whether its own name says what it shows, so that it may serve in the held-out set.
    """

    key: str
    caption: str
    concept: str
    title: str
    source: str
    licence: str
    variant: bool = False
    same_as: str = ""
    holdable: bool = True

    def fields(self) -> dict[str, str]:
        """Return the fields of the sample's JSON member."""
        return {
            "caption": self.caption,
            "concept": self.concept,
            "title": self.title,
            "source": self.source,
            "licence": self.licence,
        }
