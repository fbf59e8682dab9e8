"use client";
import { useEffect } from "react";
import { useGuardian } from "slm-guardian/react";

export default function Page() {
  const { guardian, status, error } = useGuardian({ model: "/model/" });
  useEffect(() => {
    if (!guardian) return;
    globalThis.screen_ = (text) => guardian.screen(text);
    document.body.dataset.ready = "";
  }, [guardian]);
  return <p>{error ? error.message : status}</p>;
}
