# A real device, see docs/devices.md; its keys are for paths in here: fedsim.devices add ... --data-dir /data --state-dir /state
FROM python:3.12-slim
COPY . /opt/fedsim
RUN pip install --no-cache-dir -e /opt/fedsim
# The state, which is what the device must not lose, is a volume.
RUN useradd --create-home fedsim && install --directory --owner=fedsim /state
USER fedsim
WORKDIR /home/fedsim
VOLUME /state
CMD ["sh", "/keys/start.sh"]
