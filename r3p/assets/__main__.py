import sys

from r3p.assets.fetch import main
from r3p.errors import InputError

if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"r3p: {e}")
