/** Texts to search through, and things to look for that share few words with what they should find. */

export const TEXTS = [
  "Refunds are paid to the original card within five working days.",
  "You can change the delivery address until the parcel has left our warehouse.",
  "If the screen stays black, hold the power button for twelve seconds.",
  "The battery reaches eighty percent in about forty minutes.",
  "Two-factor sign-in sends a code to your phone.",
  "Children under six travel free on all regional trains.",
  "The museum is closed on Mondays and on New Year's Day.",
  "Add the flour slowly and stir until no lumps are left.",
  "Let the dough rest in a warm place until it has doubled in size.",
  "Basil does not like cold drafts and needs at least six hours of sun.",
  "Water succulents only when the soil is completely dry.",
  "A resting heart rate between sixty and one hundred is usual for adults.",
  "Drink more fluids and rest when you have a fever.",
  "The northern lights are best seen on dark, clear nights around the equinox.",
  "Tides are highest when the sun and the moon pull in the same direction.",
  "Glaciers carved these valleys during the last ice age.",
  "The orchestra tunes to the oboe because its pitch is steady.",
  "A capo shortens the strings of a guitar and raises their pitch.",
  "Our quarterly revenue grew by seven percent, mostly from subscriptions.",
  "The contract renews each year unless it is cancelled a month before.",
  "Keep receipts for seven years in case of a tax audit.",
  "Bumblebees can fly in colder weather than honeybees.",
  "Octopuses have three hearts and blue blood.",
  "Our cat sleeps through the day and is awake at night.",
];

export const QUERIES = [
  "How do I get my money back?",
  "my gadget will not turn on",
  "baking bread",
  "animals",
  "stargazing trip",
];
