"""`python -m jssl`: the command `jssl`."""

from jssl.cli import program

if __name__ == "__main__":
    program()
