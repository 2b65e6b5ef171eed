"""Device profiles: facts about device classes as data, read with `query`."""

from edgec.profiles.profile import Fact, Profile, load, names, query

__all__ = ["Fact", "Profile", "load", "names", "query"]
