"""``python -m car``: the command line, for launchers that start Python modules."""

from car.cli import main

if __name__ == "__main__":
    main()
