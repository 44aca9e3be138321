//! Kubernetes types as data: the schema table and the engines that run on it.
