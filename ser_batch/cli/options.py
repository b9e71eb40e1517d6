"""Options that several commands share."""

from typing import Annotated

import typer

Workers = Annotated[
    int | None,
    typer.Option("--workers", "-j", min=1, metavar="N", help="Worker processes.", show_default="all CPUs"),
]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="NAME", help="local: this machine; ray: the nodes of a Ray cluster.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster.", show_default="RAY_ADDRESS, or the one on this machine"),
]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE", help="Directories, files, CSVs or TSVs with a column file, @list.txt, or -."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Random seed.")]
_RECIPES = "the recipe's"
RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="default, functionals, seed, or a TOML file.")
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        metavar="N",
        help="Epochs; of a CRNN beside functionals, at most so many.",
        show_default=_RECIPES,
    ),
]
Normalise = Annotated[
    str | None,
    typer.Option(
        "--normalise",
        metavar="HOW",
        help="Normalisation statistics: none, train, file or speaker.",
        show_default=_RECIPES,
    ),
]
ClassWeight = Annotated[
    str | None, typer.Option("--class-weight", metavar="HOW", help="balanced or none.", show_default=_RECIPES)
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="BUNDLE", help="Start from a bundle's weights; shipped: the model of the package."),
]
Adapt = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Normalise by voices (found), speakers (given) or batch; none: each recording alone.",
        show_default="speakers if given, else voices",
    ),
]
ScoredAdapt = Annotated[
    str, typer.Option("--adapt", metavar="HOW", help="As in infer: none, batch, speakers (of the records) or voices.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Discard earlier results in --out.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show messages of TensorFlow.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
