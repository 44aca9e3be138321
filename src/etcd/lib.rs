//! etcd v3 gRPC over a Store.
