// Goes back to the application once the others have loaded their frames, or have had long enough.
const back = document.getElementById("logout-continue");
const go = () => location.replace(back.href);
if (document.readyState === "complete") go();
else {
  addEventListener("load", go);
  setTimeout(go, 4000);
}
