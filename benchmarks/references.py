"""The curves of good runs, bands over seeds, that `jssl compare` and `jssl doctor` hold a run to.

    python -m benchmarks.references --configs dgi:demo,grace:demo --seeds 0,1,2

Each config is trained once per seed, below --workdir, where the same call finds it again, and written to
FOLDER/METHOD-VARIANT.json; `benchmarks.quality --reference` writes those of the runs that it has scored.
"""

import argparse
import json
import pathlib

import jax

from benchmarks import results
from jssl import compare, pages
from jssl import config as configs
from jssl.experiment import fill, open_data
from jssl.train import train
from jssl.writers import read_metrics


def main(argv=None):
    parser = argparse.ArgumentParser(prog="benchmarks.references", description=__doc__.partition("\n")[0])
    parser.add_argument("--configs", required=True, help="METHOD:VARIANT, comma-separated")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as --config.FIELD=VALUE")
    parser.add_argument("--folder", default=compare.folder())
    parser.add_argument("--workdir", default="runs/references")
    arguments = parser.parse_args(argv)

    overrides = dict(text.split("=", 1) for text in arguments.set)
    for spec in arguments.configs.split(","):
        workdirs = []
        for seed in arguments.seeds.split(","):
            workdir = pathlib.Path(arguments.workdir, f"{spec.replace(':', '-')}-{seed}")
            config = configs.load(spec, overrides | {"seed": seed})
            config, _ = fill(config, open_data(config))
            if train(config, workdir) is None:
                raise SystemExit("stopped; the same call goes on from there")
            workdirs.append(workdir)
            jax.clear_caches()  # a process of hundreds of compiled programs runs out of memory maps
        write(arguments.folder, spec, workdirs)


def write(folder, spec, workdirs, **more):
    """FOLDER/METHOD-VARIANT.json, see `jssl.compare`: the curves' bands over run directories that differ in the seed.
    more: what else it is to say."""
    method, _, variant = spec.partition(":")
    contents = [json.loads((workdir / "config.json").read_text()) for workdir in workdirs]
    made = {"method": method, "variant": variant, "seeds": [content["config"]["seed"] for content in contents]}
    made |= {"commit": contents[0]["commit"], "device": results.device(), **more, "config": contents[0]["config"]}
    text = json.dumps({**made, "curves": compare.curves([read_metrics(workdir) for workdir in workdirs])})
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    pathlib.Path(folder, f"{method}-{variant}.json").write_text(text.replace('"curves"', '\n"curves"') + "\n")


if __name__ == "__main__":
    pages.huge()
    main()
