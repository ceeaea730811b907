#!/bin/bash
# A SLURM job array without any scheduler of ours: each job does its part, the last one finishes the mask.
#
#     sbatch --array=1-16 examples/job_array.sh slide.tif mask.zarr
#
# Other systems count in other variables: PBS_ARRAY_INDEX, LSB_JOBINDEX, SGE_TASK_ID.
# A job that is told to end stores the block it is at, and exits with 75: SLURM then puts it into the queue again.
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

tileseg predict "$1" --out "$2" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --quiet "${@:3}" &
worker=$!
# bash hands a signal on only while it waits
trap 'kill -TERM $worker' TERM
wait $worker
code=$?
# a wait that a signal ended has not waited yet
if kill -0 $worker 2>/dev/null; then wait $worker; code=$?; fi
if [ $code -eq 75 ] && command -v scontrol >/dev/null; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit $code
