//! `postStart` and `preStop` handlers.

use std::net::IpAddr;
use std::time::Duration;

use cri::{ContainerId, ContainerRuntime};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::spec::format_pod;
use crate::probe::{HttpTarget, http_get};

/// A hook without a deadline of its own is given up after this long.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// How long one HTTP hook may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a handler to its end; the error is the message of the container's state.
pub(crate) async fn run(
    runtime: &dyn ContainerRuntime,
    pod: &Pod,
    pod_ip: Option<IpAddr>,
    container: &Container,
    id: &ContainerId,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let place = || {
        format!(
            "for Container {:?} in Pod {:?}",
            container.name,
            format_pod(pod)
        )
    };
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let fail = |error: String, output: &str| {
            format!(
                "Exec lifecycle hook ([{shown}]) {} failed - error: {error}, message: {output:?}",
                place()
            )
        };
        let result = runtime.exec_sync(id, &command, NO_DEADLINE).await;
        let result = result.map_err(|error| fail(base::Chain(&error).to_string(), ""))?;
        if result.code != 0 {
            let mut output = result.stdout;
            output.extend(result.stderr);
            let error = format!("command '{shown}' exited with {}: ", result.code);
            return Err(fail(error, &String::from_utf8_lossy(&output)));
        }
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        let ip = pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let get = async {
            let target = HttpTarget::new(action, container, &ip, "lifecycle")?;
            match http_get(&target, HTTP_TIMEOUT).await {
                Err(_) if target.https => {
                    // A server that was asked for HTTPS but speaks HTTP is served, too.
                    http_get(
                        &HttpTarget {
                            https: false,
                            ..target
                        },
                        HTTP_TIMEOUT,
                    )
                    .await
                }
                result => result,
            }
        };
        let path = action.path.as_deref().unwrap_or_default();
        return get.await.map(drop).map_err(|error| {
            format!(
                "HTTP lifecycle hook ({path}) {} failed - error: {error}",
                place()
            )
        });
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(action.seconds).unwrap_or(0),
        ))
        .await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".into())
}
