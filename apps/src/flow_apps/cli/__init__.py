"""The commands.

Everything heavy is imported by the command that needs it, so that help, lists and mistakes in names
are had at once.
"""

from flow_apps.cli.attacking import attack
from flow_apps.cli.data import data
from flow_apps.cli.importing import import_published
from flow_apps.cli.listing import add_listing
from flow_apps.cli.outliers import ood
from flow_apps.cli.results import evaluate, sample, stability
from flow_apps.cli.training import add_training, new_app

app = new_app()
add_training(app)
add_listing(app)
app.command()(evaluate)
app.command()(sample)
app.command()(stability)
app.command()(ood)
app.command()(attack)
app.command("import")(import_published)
app.add_typer(data, name="data")

__all__ = ["app", "attack", "data", "evaluate", "import_published", "ood", "sample", "stability"]
