"""Predicts slides with workers that a batch system starts: SLURM, PBS, LSF, SGE, or, to try it, this machine.

    python examples/batch_queue.py slides/*.tif --out-dir masks --system slurm --jobs 8 --cores 4 --memory 8GB
    python examples/batch_queue.py slide.tif --out-dir masks --system local --jobs 2

Needs dask-jobqueue: pip install "tilesegment[jobqueue]". Each job is one worker; jobs come and go as the queue lets
them, and one that ends early costs only its blocks and is submitted again. Where no job runs for --wait hours the run
ends; the same line goes on from there. What else the batch system wants to know goes after `--`, as it is:

    python examples/batch_queue.py slide.tif --out-dir masks --system slurm -- --partition=gpu --gres=gpu:1
"""

import argparse
import sys
from pathlib import Path

import dask_jobqueue
from dask_jobqueue.local import LocalCluster
from distributed import Client

from tilesegment.cluster import Cluster
from tilesegment.prediction.inputs import place_masks
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.records import Records
from tilesegment.prediction.settings import Outputs, Settings

SYSTEMS = {
    "slurm": dask_jobqueue.SLURMCluster,
    "pbs": dask_jobqueue.PBSCluster,
    "lsf": dask_jobqueue.LSFCluster,
    "sge": dask_jobqueue.SGECluster,
    "local": LocalCluster,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--system", choices=SYSTEMS, default="slurm")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--cores", type=int, default=1, help="of a job, all for its one worker")
    parser.add_argument("--memory", default="4GB", help="of a job")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--wait", type=float, default=24.0, help="hours that no job at all may run")
    ours = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    given, extra = parser.parse_args(ours), sys.argv[len(ours) + 2 :]

    # tasks of one worker follow each other: all its cores compute one of them
    cores = [f"export OMP_NUM_THREADS={given.cores}"]
    # without a batch system the script is no more than its last line
    limits = {} if given.system == "local" else {"walltime": given.walltime, "job_script_prologue": cores}
    queue = SYSTEMS[given.system](
        cores=given.cores,
        processes=1,
        memory=given.memory,
        job_extra_directives=extra,
        worker_extra_args=["--nthreads", "1"],
        **limits,
    )
    queue.scale(jobs=given.jobs)
    settings = Settings(given.model, tile=given.tile)
    images = place_masks(given.out_dir, [(image, None) for image in given.images], "zarr", Outputs(""))
    with Cluster(Client(queue), queue, wait=3600 * given.wait) as cluster:
        cluster.note = lambda text: print(text, file=sys.stderr)
        print(cluster.describe())
        results = list(predict_many(images, settings, cluster, listeners=[Records(given.out_dir)]))
    for one in results:
        print(f"{one.image}: {one.state}, {one.pixels / 1e6:,.1f} Mpx in {one.seconds:,.1f} s")
    return 0 if all(one.state == "complete" for one in results) else 3


if __name__ == "__main__":
    sys.exit(main())
