//! The node's own objects.

use serde_json::Value;

use crate::world::World;

#[tokio::test]
async fn registers_and_renews_its_lease() {
    let world = World::new().await;
    let path = "/api/v1/nodes/node";
    let node = world.api.until("the node", |api| api.get(path)).await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node");
    assert_eq!(
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"],
        10250
    );
    let conditions: Vec<String> = node["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| format!("{}={}", condition["type"], condition["reason"]).replace('"', ""))
        .collect();
    assert_eq!(conditions.last().unwrap(), "Ready=KubeletReady");
    assert_eq!(conditions.len(), 4);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node";
    let lease: Value = world.api.until("the lease", |api| api.get(lease)).await;
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["metadata"]["ownerReferences"][0]["kind"], "Node");
    world.stop().await;
}
