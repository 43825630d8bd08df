"""The command line. Tables and progress go to stderr, `--json` to stdout; exit 0 done, 1 could not, 2 usage."""

from __future__ import annotations

import json
import sys

import click

from pruneopt.commands.compare import compare
from pruneopt.commands.inspect import inspect
from pruneopt.commands.prune import prune
from pruneopt.commands.recipes import recipes
from pruneopt.commands.tune import tune
from pruneopt.errors import PruneoptError


class Commands(click.Group):
    """A group whose first argument may be a model instead of a command: then it is `prune`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `prune` where no command is named."""
        flags = {"--help", "--version"}
        if args and args[0] not in self.commands and args[0] not in flags:
            args = ["prune", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command first."""
        formatter.write_usage("pruneopt", "MODEL -o OUT [OPTIONS]  |  COMMAND ...")


@click.group(cls=Commands)
@click.version_option(package_name="pruneopt")
def cli() -> None:
    """Make a trained model physically smaller and prove the rewrite right.

    \b
    pruneopt model.onnx -o out.onnx --macs 0.5    halve the multiply-accumulates
    pruneopt inspect model.onnx                   what can be removed, and why the rest cannot
    pruneopt compare model.onnx out.onnx          size, cost, latency, fidelity
    pruneopt tune sparse.onnx -o out.onnx         kernels that make sparse weights fast
    pruneopt recipes                              published methods, for --recipe
    """


for command in (prune, inspect, compare, tune, recipes):
    cli.add_command(command)


def main(args: list[str] | None = None) -> int:
    """Run the command line; one clear sentence for what goes wrong."""
    try:
        cli.main(args=args, prog_name="pruneopt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"pruneopt: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort as error:
        more = "; ".join(filter(None, ["interrupted; nothing was written", str(error.__cause__ or "")]))
        click.echo(f"pruneopt: {more}", err=True)
        return 130
    except PruneoptError as error:
        click.echo(f"pruneopt: {error}", err=True)
        if "--json" in (sys.argv[1:] if args is None else args):
            click.echo(json.dumps({"error": str(error), **error.details}, indent=2))
        return error.exit_code
    return 0
