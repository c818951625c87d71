"""Tests of the images, the Kubernetes files and the launchers' files: docker/README.md."""
