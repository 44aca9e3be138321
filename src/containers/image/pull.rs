//! Pulling from a registry.

use cri::{PullProgress, RegistryAuth};
use tokio::sync::watch;

use super::reference::Reference;
use super::registries::Registries;
use super::store::Store;
use crate::error::{internal, invalid};

pub(crate) async fn pull(
    _store: &Store,
    _registries: &Registries,
    reference: &str,
    _auth: &[RegistryAuth],
    _progress: &watch::Sender<PullProgress>,
) -> cri::Result<String> {
    let reference = Reference::parse(reference).map_err(|error| invalid(error.to_string()))?;
    Err(internal(format!(
        "{reference} cannot be pulled: this build imports archives only"
    )))
}
