//! The pod scheduler: filter, score, preempt, bind.
