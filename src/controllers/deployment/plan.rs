//! How many pods each ReplicaSet of a Deployment should have: pure arithmetic.

use k8s_openapi::api::apps::v1::Deployment;

use crate::count::scaled;

/// The size a Deployment asks for and how far a rollout may stray from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) replicas: i32,
    pub(super) max_surge: i32,
    pub(super) max_unavailable: i32,
}

/// What a plan needs to know about a ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
    /// The Deployment's size plus surge when this set was last scaled, from
    /// the `max-replicas` annotation.
    pub(super) max_before: Option<i32>,
}

/// The next step of a rolling update.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Scale the new set to this size.
    New(i32),
    /// Scale old sets, by index, to these sizes.
    Old(Vec<(usize, i32)>),
    /// Neither: nothing can move until a pod becomes available or goes.
    Nothing,
}

impl Limits {
    /// The limits of a Deployment; surge and unavailability are zero unless
    /// it is updated in a rolling manner, and never both zero if it is.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        if is_recreate(deployment) {
            return Self {
                replicas,
                max_surge: 0,
                max_unavailable: 0,
            };
        }
        let rolling = spec
            .and_then(|spec| spec.strategy.as_ref())
            .and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let max_surge = scaled(surge, replicas, true);
        let mut max_unavailable = scaled(unavailable, replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Self {
            replicas,
            max_surge,
            max_unavailable: max_unavailable.min(replicas),
        }
    }

    /// The most pods there may be.
    pub(super) fn ceiling(self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    fn floor(self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// The size of the new set, given that of all sets together.
pub(super) fn new_size(limits: Limits, new: i32, total: i32) -> i32 {
    let room = limits.ceiling() - total;
    if room <= 0 {
        return new;
    }
    new + room.min(limits.replicas - new)
}

/// The next step of a rolling update; `olds` are in order of age.
pub(super) fn rolling(limits: Limits, new: Size, olds: &[Size]) -> Step {
    let old_total: i32 = olds.iter().map(|old| old.replicas).sum();
    let total = old_total + new.replicas;
    if new.replicas != limits.replicas {
        let size = if new.replicas > limits.replicas {
            limits.replicas
        } else {
            new_size(limits, new.replicas, total)
        };
        if size != new.replicas {
            return Step::New(size);
        }
    }
    if old_total == 0 {
        return Step::Nothing;
    }
    // Pods of the new set that are not available yet count as if they were
    // gone, or old pods would be removed on the promise of new ones.
    let mut removable = total - limits.floor() - (new.replicas - new.available);
    if removable <= 0 {
        return Step::Nothing;
    }
    let mut sizes: Vec<i32> = olds.iter().map(|old| old.replicas).collect();
    for (size, old) in sizes.iter_mut().zip(olds) {
        let unhealthy = (*size - old.available).max(0).min(removable);
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let available: i32 = new.available + olds.iter().map(|old| old.available).sum::<i32>();
    let mut surplus = (available - limits.floor()).max(0);
    for size in &mut sizes {
        let healthy = (*size).min(surplus);
        *size -= healthy;
        surplus -= healthy;
    }
    let changed: Vec<(usize, i32)> = sizes
        .into_iter()
        .enumerate()
        .filter(|(index, size)| *size != olds[*index].replicas)
        .collect();
    if changed.is_empty() {
        Step::Nothing
    } else {
        Step::Old(changed)
    }
}

/// Sizes after a Deployment was scaled amid a rollout: every active set takes
/// its share of the difference, the first one what rounding leaves. `active`
/// is in order of size, largest first; `known_total` is the Deployment's
/// `status.replicas`, for sets without an annotation.
pub(super) fn proportional(limits: Limits, active: &[Size], known_total: i32) -> Vec<i32> {
    let total: i32 = active.iter().map(|set| set.replicas).sum();
    let allowed = if limits.replicas > 0 {
        limits.ceiling()
    } else {
        0
    };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in active {
        let left = to_add - added;
        let share = if set.replicas == 0 || left == 0 {
            0
        } else if to_add > 0 {
            fraction(limits, *set, known_total).min(left)
        } else {
            fraction(limits, *set, known_total).max(left)
        };
        sizes.push(set.replicas + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn fraction(limits: Limits, set: Size, known_total: i32) -> i32 {
    if limits.replicas == 0 {
        return -set.replicas;
    }
    let before = set
        .max_before
        .filter(|before| *before != 0)
        .unwrap_or(known_total);
    if before == 0 {
        return 0;
    }
    let exact = f64::from(set.replicas) * f64::from(limits.ceiling()) / f64::from(before);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a product of two counts over a third"
    )]
    let rounded = exact.round() as i32;
    rounded - set.replicas
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(replicas: i32, max_surge: i32, max_unavailable: i32) -> Limits {
        Limits {
            replicas,
            max_surge,
            max_unavailable,
        }
    }

    fn size(replicas: i32, available: i32) -> Size {
        Size {
            replicas,
            available,
            max_before: None,
        }
    }

    #[test]
    fn rolls_step_by_step() {
        let cases = [
            // A first rollout goes to full size at once.
            (limits(10, 2, 2), size(0, 0), vec![], Step::New(10)),
            // The new set grows into the surge.
            (
                limits(10, 2, 2),
                size(0, 0),
                vec![size(10, 10)],
                Step::New(2),
            ),
            // Old pods go as far as unavailability allows.
            (
                limits(10, 2, 2),
                size(2, 0),
                vec![size(10, 10)],
                Step::Old(vec![(0, 8)]),
            ),
            // Nothing moves while new pods are not available.
            (
                limits(10, 2, 0),
                size(2, 0),
                vec![size(10, 10)],
                Step::Nothing,
            ),
            (
                limits(10, 2, 0),
                size(2, 2),
                vec![size(10, 10)],
                Step::Old(vec![(0, 8)]),
            ),
            // Unhealthy old pods go first, oldest set first.
            (
                limits(10, 0, 2),
                size(0, 0),
                vec![size(5, 5), size(5, 3)],
                Step::Old(vec![(1, 3)]),
            ),
            // Scaled down meanwhile.
            (limits(3, 1, 0), size(5, 5), vec![], Step::New(3)),
            (limits(3, 1, 0), size(3, 3), vec![size(0, 0)], Step::Nothing),
        ];
        for (limits, new, olds, step) in cases {
            assert_eq!(
                rolling(limits, new, &olds),
                step,
                "{limits:?} {new:?} {olds:?}"
            );
        }
    }

    #[test]
    fn scales_in_proportion() {
        let set = |replicas, before| Size {
            replicas,
            available: 0,
            max_before: Some(before),
        };
        let cases = [
            (limits(10, 0, 0), vec![set(5, 5)], vec![10]),
            (limits(20, 0, 0), vec![set(5, 10), set(5, 10)], vec![10, 10]),
            (limits(5, 0, 0), vec![set(5, 10), set(5, 10)], vec![2, 3]),
            (limits(0, 0, 0), vec![set(5, 10), set(5, 10)], vec![0, 0]),
            (limits(15, 3, 2), vec![set(8, 13), set(5, 13)], vec![11, 7]),
        ];
        for (limits, active, sizes) in cases {
            let planned = proportional(limits, &active, 0);
            assert_eq!(
                planned.iter().sum::<i32>(),
                sizes.iter().sum::<i32>(),
                "{limits:?}"
            );
            assert_eq!(planned, sizes, "{limits:?} {active:?}");
        }
    }

    proptest! {
        /// However pods become ready, a rollout ends at the wanted size, and on
        /// the way there are never too many pods or too few available.
        #[test]
        fn a_rollout_stays_within_its_limits_and_ends(
            replicas in 0..20_i32,
            surge in 0..6_i32,
            unavailable in 0..6_i32,
            chunks in prop::collection::vec(1..5_i32, 200),
        ) {
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            let limits = limits(replicas, surge, unavailable.min(replicas));
            let mut new = size(0, 0);
            let mut old = size(replicas, replicas);
            let mut ended = false;
            for chunk in chunks {
                match rolling(limits, new, &[old]) {
                    Step::New(size) => new.replicas = size,
                    Step::Old(sizes) => {
                        old.replicas = sizes[0].1;
                        old.available = old.available.min(old.replicas);
                    }
                    Step::Nothing if new.available == new.replicas => {
                        ended = true;
                        break;
                    }
                    Step::Nothing => new.available = (new.available + chunk).min(new.replicas),
                }
                prop_assert!(new.replicas + old.replicas <= limits.ceiling());
                prop_assert!(new.available + old.available >= limits.floor());
            }
            prop_assert!(ended);
            prop_assert_eq!((new.replicas, old.replicas), (replicas, 0));
        }

        /// Scaling never strays from the allowed total.
        #[test]
        fn proportional_scaling_meets_the_total(
            replicas in 0..50_i32,
            surge in 0..5_i32,
            sets in prop::collection::vec((1..30_i32, 1..60_i32), 1..5),
        ) {
            let limits = limits(replicas, surge, 0);
            let sets: Vec<Size> = sets
                .into_iter()
                .map(|(replicas, before)| Size { replicas, available: 0, max_before: Some(before) })
                .collect();
            let planned = proportional(limits, &sets, 0);
            let total: i32 = planned.iter().sum();
            prop_assert!(planned.iter().all(|size| *size >= 0));
            if replicas > 0 {
                prop_assert!(total >= limits.ceiling());
            } else {
                prop_assert_eq!(total, 0);
            }
        }
    }
}
