//! Loops over independent work, on all cores where there are threads.

/// Calls `work(scratch, index)` for every index below `count`; each thread has a scratch of its own.
pub fn each_index<S: Send>(
    count: usize,
    new: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize) + Sync + Send,
) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        (0..count).into_par_iter().for_each_init(new, work);
    }
    #[cfg(target_arch = "wasm32")]
    {
        let mut scratch = new();
        (0..count).for_each(|index| work(&mut scratch, index));
    }
}

/// Calls `work(scratch, index, chunk)` for every chunk of `size` elements.
pub fn each_chunk<S: Send>(
    data: &mut [f32],
    size: usize,
    new: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        data.par_chunks_mut(size).enumerate().for_each_init(new, |scratch, (index, chunk)| work(scratch, index, chunk));
    }
    #[cfg(target_arch = "wasm32")]
    {
        let mut scratch = new();
        data.chunks_mut(size).enumerate().for_each(|(index, chunk)| work(&mut scratch, index, chunk));
    }
}
