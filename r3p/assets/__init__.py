"""What the system needs besides code: the built-in head and weights here, and files fetched once (`r3p assets`)."""

from r3p.assets.fetch import asset_path, cache_dir, is_present

__all__ = ["asset_path", "cache_dir", "is_present"]
