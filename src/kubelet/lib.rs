//! The node agent: pod workers, volumes, probes, status and the node API.
