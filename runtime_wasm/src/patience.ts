/** What `work` gives, or `otherwise` if it has not ended after so many milliseconds: the browsers' storage now and then never answers. */
export async function within<T, U>(milliseconds: number, work: Promise<T>, otherwise: U): Promise<T | U> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<U>((resolve) => (timer = setTimeout(() => resolve(otherwise), milliseconds)));
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
