//! Loops over tasks, on whoever's threads.

use std::sync::{Mutex, PoisonError};

use crate::interface::Host;

/// Somebody with threads.
///
/// Kernels cut their work into tasks by shapes alone, never by the number of threads, so that
/// their results do not depend on it.
pub trait Parallel: Sync {
    /// Runs `task(0)`, …, `task(count - 1)` and returns when all are done.
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync));
}

/// The caller's thread and no other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        for index in 0..count {
            task(index);
        }
    }
}

impl Parallel for Host {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let result = self.parallel_for(count, |index| {
            task(index);
            Ok(())
        });
        // The tasks return nothing, so one of them panicked; the plugin's entry catches it again.
        if let Err(error) = result {
            std::panic::resume_unwind(Box::new(error.to_string()));
        }
    }
}

/// Runs `task` once for each item, which it owns: that is how parts of one buffer get to the
/// threads that fill them.
pub fn hand_out<T: Send>(parallel: &dyn Parallel, items: Vec<T>, task: impl Fn(usize, T) + Sync) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|i| Mutex::new(Some(i))).collect();
    parallel.for_each(items.len(), &|index| {
        let item = items[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(item) = item {
            task(index, item);
        }
    });
}

/// [`hand_out`] of tasks that may fail.
///
/// # Errors
/// The first task's, by number, among those that failed; the others are run all the same.
pub fn try_hand_out<T: Send, E: Send>(
    parallel: &dyn Parallel,
    items: Vec<T>,
    task: impl Fn(usize, T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let first: Mutex<Option<(usize, E)>> = Mutex::new(None);
    let slot = || first.lock().unwrap_or_else(PoisonError::into_inner);
    hand_out(parallel, items, |index, item| {
        if let Err(error) = task(index, item) {
            let mut first = slot();
            if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                *first = Some((index, error));
            }
        }
    });
    let error = slot().take();
    error.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_by_number_comes_back_and_all_tasks_run() {
        let run = Mutex::new(Vec::new());
        let result = try_hand_out(&Serial, vec!['a', 'b', 'c', 'd'], |index, item| {
            run.lock().unwrap().push(item);
            if index % 2 == 1 { Err(index) } else { Ok(()) }
        });
        assert_eq!(result, Err(1));
        assert_eq!(run.into_inner().unwrap(), ['a', 'b', 'c', 'd']);
        assert_eq!(
            try_hand_out(&Serial, vec![0], |_, _| Ok::<(), ()>(())),
            Ok(())
        );
    }

    #[test]
    fn every_item_is_handed_out_once() {
        let mut numbers = vec![0; 100];
        let parts: Vec<&mut [i32]> = numbers.chunks_mut(7).collect();
        hand_out(&Serial, parts, |index, part| {
            for number in part {
                *number += index as i32 + 1;
            }
        });
        for (place, number) in numbers.iter().enumerate() {
            assert_eq!(*number, place as i32 / 7 + 1);
        }
    }
}
