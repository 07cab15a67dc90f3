//! Which archives are kept: limits, what they doom, and who keeps to them.
//!
//! The semantics are those of checkpoint-restore-operator, so that its policies can be pasted:
//! the most specific policy of an archive is the one that counts (container, pod, namespace, then
//! the global one), the oldest go first, pinned archives count and are never deleted, and a level
//! one of whose limits is 0 is not applied. Better than there: sizes are exact after deletions by
//! count, one archive is never counted twice, archives are told apart by what is inside them, and a
//! size that two versions of the operator read differently is refused ([`Size`]).
//!
//! Beyond it there are limits of the whole node, of age, and of disk that must stay free
//! ([`NodePolicy`]). Nothing is deleted unless it was asked for: the default is no limit at all.
//! (The operator's own default is 10, 20 and 30 archives per container, pod and namespace.)
//!
//! What cannot be read as a checkpoint archive is neither counted nor deleted: it may be somebody
//! else's, or still be written. [`plan`] is pure; [`Keeper`] carries it out.

mod amount;
mod keeper;
mod plan;
mod policy;
mod residents;

pub use amount::{Age, AmountError, MinFree, Size};
pub use keeper::{Failed, Keeper, Pruned};
pub use plan::{Blocked, Doomed, Moment, Plan, Scope, Why, plan};
pub use policy::{
    Bounds, ContainerPolicy, GlobalPolicy, NamespacePolicy, NodePolicy, PodPolicy, Retention,
    RetentionError,
};
pub use residents::{Census, Residents, RuntimeCensus};
