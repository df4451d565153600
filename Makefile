# Two commands, each enough by itself on a fresh machine with Python 3.11 or newer:
#   make animate   install what a user needs, animate the built-in character, say where the video is
#   make test      install the test tools, then lint, format, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --constraint constraints.txt
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test

.PHONY: animate test
.DELETE_ON_ERROR:

animate: $(CORE)
	@mkdir -p out
	$(BIN)/pasdedeux animate -o out/animate.mp4 --report out/animate.json
	@echo "The video is out/animate.mp4; out/animate.json says how it was made."

test: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the program into $(VENV); this happens once, and torch is large."
	$(INSTALL) --editable .
	@touch $@

# mediapipe asks for opencv-contrib-python, which writes into the same cv2 folder as the headless build and needs
# desktop libraries (libGL, libxcb). The headless build goes in last, so that its library is the one imported.
$(TEST): $(CORE)
	@echo "Installing the test tools into $(VENV); this happens once."
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --force-reinstall --no-deps opencv-python-headless
	@touch $@
