"""Runs a federation: ``python run.py strategy=fedwon``; ``python run.py --help`` lists the settings."""

if __name__ == "__main__":
    from fedsim.app.cli import main  # not at module level: worker processes import this file again

    main()
