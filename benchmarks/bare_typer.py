"""The floor of a command line made with Typer: one command that does next to nothing."""

import typer

app = typer.Typer()


@app.command()
def hello() -> None:
    """Say hello."""
    print("hello")


if __name__ == "__main__":
    app()
