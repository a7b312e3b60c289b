# Commands that are registered on the device: see flake-ctl(8).
PATH=$PATH:/usr/share/flakes/bin
