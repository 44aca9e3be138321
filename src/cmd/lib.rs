//! The karve command: CLI, configuration and wiring.
