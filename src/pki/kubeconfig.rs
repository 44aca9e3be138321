//! The admin's kubeconfig.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Issued;

/// A kubeconfig with embedded certificates: context, cluster and user are all
/// called `default`, as k3s has it.
pub fn kubeconfig(server: &str, ca: &str, client: &Issued) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    \
         server: {server}\n    certificate-authority-data: {}\ncontexts:\n- name: default\n  \
         context:\n    cluster: default\n    user: default\ncurrent-context: default\nusers:\n- \
         name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(ca),
        encode(&client.certificate),
        encode(&client.key),
    )
}
