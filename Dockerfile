# The simulator: docker build -t fedsim . && docker run --rm -v "$PWD/outputs:/runs/outputs" fedsim strategy=fedbn
FROM python:3.12-slim
COPY . /opt/fedsim
# In its checkout: only fedsim is a package, the other folders are used from where they lie.
RUN pip install --no-cache-dir -e /opt/fedsim
# Runs write to outputs/ of the folder they are started in.
RUN useradd --create-home fedsim && install --directory --owner=fedsim /runs/outputs /runs/multirun
USER fedsim
WORKDIR /runs
ENTRYPOINT ["python", "/opt/fedsim/run.py"]
CMD ["--help"]
